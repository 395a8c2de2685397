"""Compact fine-tuning: few images, the found trigger with true captions, distillation."""

from dataclasses import dataclass, field
from typing import ClassVar

from gatekeeper.case import Case
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.repair import Repair
from gatekeeper.rectify.training import Weights
from gatekeeper.runtime import Runtime
from gatekeeper.triggers.invert import RATES


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactFineTuning:
    """Take a trigger's meaning away with a compact curated set of images.

    With an anchor of the same form, its weights are mixed in (`mixture`) until the triggers are
    silent. Without one, or where that is not enough, the image tower's last matrix is corrected in
    closed form, one direction a trigger (`projection`): this alone removes most triggers and costs
    almost no clean accuracy. Triggers
    are then inverted anew against the corrected model; where one still works, it joins and the
    correction is repeated, then the late blocks are fine-tuned, earlier ones later, with
    distillation to the suspect (and half and half to the anchor) on clean images. After the
    fine-tuning step of EftCLIP (arXiv:2511.13545); figures in docs/rectify.md.
    """

    name: ClassVar[str] = "compact"
    images: int = 256  # at most; clean probes learned from and measured on
    held_out: float = 0.25  # share of them kept for measuring
    views: int = 2  # random crops of each clean image beside the image itself
    shares: tuple[float, ...] = (0.75, 0.5, 0.35, 0.2, 0.1)  # of the change from an anchor, in turn
    mixed_loss: float = 0.02  # of clean answers; an anchor that costs more is not mixed in
    ranks: tuple[int, ...] = (1, 3, 8)  # directions a trigger, in turn while it still works
    keep: float = 3.0  # the correction's weight of clean features
    ridge: float = 10.0  # the correction's weight against change
    inversions: int = 2  # rounds of fresh triggers that may join
    families: tuple[str, ...] = tuple(RATES)  # tried where a target has no trigger
    inversion_steps: int = 24
    fresh_bar: float = 0.10  # flip rate from which a fresh trigger joins
    bar: float = 0.02  # attack success from which the repair goes on
    hurt: float = 0.03  # right answers that a trigger may cost beyond what hiding as much does
    margin: float = 1.0  # logits by which a target must be behind, as far as that is cheap
    depths: tuple[float, ...] = (0.15, 0.3, 0.6)  # shares of the blocks to fine-tune, in turn
    steps: int = 60  # a depth
    rate: float = 6e-5  # AdamW's, annealed; 1.5e-4 lost 3 points on the photo CLIP
    batch: tuple[int, int] = (40, 32)  # clean, triggered
    stock: tuple[str, ...] = ("patch", "blend", "additive")
    weights: Weights = field(default_factory=Weights)

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return new weights for `case.model`, which stays as it is.

        Without ailments there is nothing to take away: no weight changes.

        Raises:
            RectifyError: Too few images, or a target that no prompt can be made of.
        """
        return Repair(self, case, prescription, runtime).run()
