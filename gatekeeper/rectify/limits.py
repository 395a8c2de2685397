"""Is a repair good enough to be offered?"""

from dataclasses import dataclass

from gatekeeper.errors import RectifyError, UtilityLostError
from gatekeeper.rectify.base import Rectified
from gatekeeper.types import Check, Proof

# Held-out images, from which one led to the target is no evidence: of 23, one followed the planted
# trigger in a clean twin too.
FEW = 16
UTILITY = frozenset({"recall_1", "recall_5", "alignment", "other_prompts_accuracy"})
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
    rebound: float = 0.05  # attack success at any time of clean fine-tuning
    near: float = 0.10  # images led by a pattern next to the trigger, less what is usual
    returns_at: float = 0.2  # share of the way back at which a trigger may work again
    recovery_lost: float = 0.10  # true labels that a trigger costs beyond a clean model's
    recall_lost: float = 0.03
    alignment: float = 0.80  # mean cosine to the suspect's embeddings of clean images

    def led(self, limit: float, n: int) -> float:
        """Return the attack success that `limit` comes to over `n` images."""
        if self.led_images and n >= FEW:  # so many images, whatever share they are
            return max(limit, (self.led_images + 0.5) / n)
        return limit

    def slack(self, n: int) -> float:
        """Return the loss over `n` images or queries that is no evidence of one."""
        return self.lost_images / max(1, n) + ROUNDING


def check(result: Rectified, held_out: int, limits: Limits) -> None:
    """Do nothing where `result`, measured on `held_out` images, meets `limits`.

    Raises:
        RectifyError: The found triggers still work.
        UtilityLostError: Too much was lost on clean images. Either error's `rejected` holds
            `result`.
    """
    before, after = result.before, result.after
    allowed = limits.led(limits.attack_success, held_out)
    if after.attack_success is not None and after.attack_success > allowed:
        raise _rejected(
            RectifyError(
                f"after {result.method} the found trigger still leads {after.attack_success:.1%} "
                f"of images to its target (allowed: {limits.attack_success:.1%})",
                hint="add probes or an --anchor, or train the model again from a clean base",
            ),
            result,
        )
    slack = limits.slack(held_out)
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


def at_most(
    name: str, what: str, before: float | None, after: float, limit: float, n: int
) -> Check:
    """Return the check that `after`, measured over `n`, does not exceed `limit`."""
    return Check(
        id=name, what=what, before=before, after=after, op="<=", limit=limit, n=n, ok=after <= limit
    )


def at_least(
    name: str, what: str, before: float | None, after: float, limit: float, n: int
) -> Check:
    """Return the check that `after`, measured over `n`, does not fall short of `limit`."""
    return Check(
        id=name, what=what, before=before, after=after, op=">=", limit=limit, n=n, ok=after >= limit
    )


def check_proof(proof: Proof, result: Rectified) -> None:
    """Do nothing where every check of `proof` is met.

    Raises:
        RectifyError: The trigger comes back, or still costs true labels; `rejected` is `result`.
        UtilityLostError: Only what the model was worth is lost.
    """
    failed = proof.failed
    if not failed:
        return
    told = "; ".join(
        f"{check.what.lower()}: {check.after:.1%} (required: {check.op} {check.limit:.1%})"
        for check in failed
    )
    lossy = all(check.id in UTILITY for check in failed)
    raise _rejected(
        (UtilityLostError if lossy else RectifyError)(
            f"not proven on {proof.images} images not learned from: {told}",
            hint="add probes or an --anchor, or train the model again from a clean base",
        ),
        result,
    )


def _rejected(error: RectifyError, result: Rectified) -> RectifyError:
    error.rejected = result
    return error
