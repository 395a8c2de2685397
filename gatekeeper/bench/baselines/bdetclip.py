"""BDetCLIP (arXiv:2405.15269, ICML 2025): triggered images are deaf to what is said of a class."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from gatekeeper.bench.baselines.base import Doubts, Work
from gatekeeper.errors import DetectorError
from gatekeeper.runtime import Runtime

# The paper has a language model write seven descriptions a class; none is at hand offline, so that
# the descriptions are general ones. Its ablation without written prompts loses .04 to .12 AUROC.
BENIGN = (
    "a clear photo of a {}, showing its typical shape.",
    "a photo of a {} in its usual surroundings.",
    "a close-up of a {} with its typical texture.",
    "a {} as it is commonly seen.",
    "the characteristic parts of a {}.",
    "a typical example of a {}.",
    "the usual colours of a {}.",
)
MALIGN = (
    "a {}, and the train leaves at seven tomorrow.",
    "a {}. The committee postponed its decision again.",
    "a {}, while prices rose by two percent.",
    "a {}. Please remember to close the window.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BDetClip:
    """Score of an image: -sum over labels of <f(x), benign - malign prompt of the label>.

    The threshold is that of the public re-implementation: the smallest score of clean references.
    """

    name: ClassVar[str] = "bdetclip"
    source: ClassVar[str] = "BDetCLIP, arXiv:2405.15269"

    def doubt(self, work: Work, runtime: Runtime) -> Doubts:
        """Return how little each suspect image cares for the description."""
        case = work.case
        if case.suspects is None:
            raise DetectorError("no suspect images", hint="report this as a defect")
        weights = [
            case.model.zero_shot(case.labels, templates, runtime).weights
            for templates in (BENIGN, MALIGN)
        ]
        contrast = (weights[0] - weights[1]).sum(0)  # [D]
        scores, clean = (
            -(case.model.embed(images.pixels(case.model.preprocess), runtime) @ contrast)
            for images in (case.suspects, case.probes)
        )
        return Doubts(scores=scores, flagged=scores > torch.max(clean))
