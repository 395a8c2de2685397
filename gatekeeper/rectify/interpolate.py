"""Go back towards the anchor as far as the found triggers ask for."""

from dataclasses import dataclass
from typing import ClassVar

from gatekeeper.case import Case
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.ground import Ground
from gatekeeper.rectify.mixture import mixture_of
from gatekeeper.rectify.projection import find_projection
from gatekeeper.rectify.rehearsal import Rehearsal
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpolation:
    """anchor + share * (suspect - anchor) in the image tower, with the largest silent share.

    Of the last matrix's change nothing is kept along the targets' directions. The first step of
    `compact` by itself, for where a fine-tune can be given up in part. Source: WiSE-FT
    (arXiv:2109.01903), against backdoors arXiv:2402.19334.
    """

    name: ClassVar[str] = "interpolate"
    shares: tuple[float, ...] = (0.75, 0.5, 0.35, 0.2, 0.1, 0.0)  # of the change, in turn
    bar: float = 0.02  # success from which the next share is tried
    margin: float = 1.0  # logits by which a target must be behind

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return the image tower part of the way back.

        Raises:
            RectifyError: No anchor of the suspect's form, nothing to go back from, or too few
                images.
        """
        ground = Ground.of(case, prescription, runtime)
        mixture = mixture_of(ground.model, case.anchor)
        if mixture is None:
            raise RectifyError(
                f"'{self.name}' needs an anchor of the same form with another image tower",
                hint="hand over --anchor, the model this one was fine-tuned from",
            )
        blocks = find_blocks(case.model)
        last = LateTower(ground.model, blocks, max(0, blocks.count - 1))
        projection = find_projection(last, runtime)
        directions = ground.head.directions()[sorted({t for _, t in ground.triggers})]
        rehearsal = Rehearsal.of(ground)
        best, nearest = ground.model, rehearsal.success(ground.model, self.margin)
        for share in runtime.progress(self.shares, "going back to the anchor"):
            if nearest <= self.bar:
                break
            model = mixture.model(share, projection, directions)
            near = rehearsal.success(model, self.margin)
            if near < nearest:  # a loud trigger leads a few images whatever the weights
                best, nearest = model, near
                ground.notes.append(
                    f"{share:.0%} of the change from the anchor kept: "
                    f"{near:.1%} within {self.margin:g} of the target"
                )
        return ground.finish(self.name, best)
