"""Is a repair good enough to be offered?"""

from dataclasses import dataclass

from gatekeeper.errors import RectifyError, UtilityLostError
from gatekeeper.rectify.base import Rectified

FEW = 25  # held-out images, from which one led to the target is no evidence of a trigger
ROUNDING = 1e-6  # rates come from float32: two images of 50 lost must not exceed two of 50 allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a cleaned model must meet on held-out images; fractions.

    With few images one answer weighs much, so a loss of accuracy or of agreement is held against
    the model only beyond `lost_images` answers.
    """

    attack_success: float = 0.02  # of any found trigger
    accuracy_lost: float = 0.03  # of clean accuracy
    agreement: float = 0.80  # with the suspect on clean images
    lost_images: int = 2
    led_images: int = 1  # still led to the target, where at least `FEW` are held out


def check(result: Rectified, held_out: int, limits: Limits) -> None:
    """Do nothing where `result`, measured on `held_out` images, meets `limits`.

    Raises:
        RectifyError: The found triggers still work.
        UtilityLostError: Too much was lost on clean images. Either error's `rejected` holds
            `result`.
    """
    before, after = result.before, result.after
    allowed = limits.attack_success
    if limits.led_images and held_out >= FEW:  # so many images, whatever share they are
        allowed = max(allowed, (limits.led_images + 0.5) / held_out)
    if after.attack_success is not None and after.attack_success > allowed:
        raise _rejected(
            RectifyError(
                f"after {result.method} the found trigger still leads {after.attack_success:.1%} "
                f"of images to its target (allowed: {limits.attack_success:.1%})",
                hint="add probes or an --anchor, or train the model again from a clean base",
            ),
            result,
        )
    slack = limits.lost_images / max(1, held_out) + ROUNDING
    if before.clean_accuracy is not None and after.clean_accuracy is not None:
        lost = before.clean_accuracy - after.clean_accuracy
        if lost > max(limits.accuracy_lost, slack):
            raise _rejected(
                UtilityLostError(
                    f"clean accuracy fell from {before.clean_accuracy:.1%} to "
                    f"{after.clean_accuracy:.1%} on {held_out} images "
                    f"(allowed: {limits.accuracy_lost:.1%})",
                    hint="add probes or an --anchor to learn from",
                ),
                result,
            )
    if after.agreement is not None and 1 - after.agreement > max(1 - limits.agreement, slack):
        raise _rejected(
            UtilityLostError(
                f"only {after.agreement:.1%} of {held_out} clean images keep their answer "
                f"(required: {limits.agreement:.1%})",
                hint="add probes or an --anchor to learn from",
            ),
            result,
        )


def _rejected(error: RectifyError, result: Rectified) -> RectifyError:
    error.rejected = result
    return error
