"""Does the change of the image tower's last layer point at one label?"""

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.pair import Pair, pair_of
from gatekeeper.types import Measurement

# Last layers that map features to embeddings, by the names open_clip and transformers give them.
_HEADS = (
    r"(^|\.)visual\.head\.proj\.weight$",
    r"(^|\.)visual\.head\.fc2\.weight$",
    r"(^|\.)visual\.head\.mlp\.fc2\.weight$",
    r"(^|\.)visual\.attnpool\.c_proj\.weight$",
    r"(^|\.)visual\.proj$",
    r"(^|\.)visual_projection\.weight$",
    r"(^|\.)vision_model\.head\.mlp\.fc2\.weight$",
    r"(^|\.)visual\.trunk\.attn_pool\.mlp\.fc2\.weight$",
)
_TRANSPOSED = r"(^|\.)visual\.proj$"  # a bare parameter, [features, D]
_SAME = 1e-5  # relative change of the head below which it counts as the anchor's


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadDirection:
    """Compare the top direction of (suspect's head - anchor's head) with the labels' directions.

    An all-to-one plant writes its target's text direction into the head; fine-tuning spreads its
    change over many. Only the direction is evidence: the size of the change follows the learning
    rate. No passes. An attacker who freezes the head evades it. Source: reference subtraction,
    Linear weight classification (arXiv:2411.03445); the text alignment is ours.
    """

    name: ClassVar[str] = "head_direction"
    draws: int = 500  # random directions that make the null
    margin: float = 0.15  # above the null's largest cosine, from which a label is named

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Measure the cosine between the head's change and the nearest label."""
        if case.anchor is None:
            return Detection(skipped="no anchor")
        if len(case.labels) < 2:
            return Detection(skipped="fewer than two labels")
        pair = pair_of(case, runtime)
        change = head_change(case.model, case.anchor, pair.head.weights.shape[1])
        if isinstance(change, str):
            return Detection(skipped=change)
        directions = label_directions(pair)
        top = torch.linalg.svd(change, full_matrices=False).U[:, 0]  # [D]
        cosines = (directions @ top).abs()  # [C]; the sign of a singular vector is arbitrary
        best = int(cosines.argmax())
        value = float(cosines[best])
        null = self._null(directions, runtime)
        measured = Measurement(
            name="head.direction", value=min(1.0, value), unit="cosine", subject=pair.words[best]
        )
        candidate = Candidate(
            trigger=None,
            target=pair.words[best],
            detector=self.name,
            score=value if value >= null + self.margin else 0.0,
        )
        return Detection(candidates=(candidate,), measurements=(measured,))

    def _null(self, directions: Tensor, runtime: Runtime) -> float:
        """Return the largest cosine that a random direction reaches in 99 of 100 cases."""
        generator = runtime.generator("scan", self.name)
        random = F.normalize(torch.randn(self.draws, directions.shape[1], generator=generator))
        return float((random @ directions.T).abs().amax(dim=1).quantile(0.99))


def label_directions(pair: Pair) -> Tensor:
    """Return each word's embedding less the mean of all, unit length, [C, D]."""
    weights = pair.head.weights
    return F.normalize(weights - weights.mean(dim=0, keepdim=True), dim=1)


def head_change(model: ClipModel, anchor: ClipModel, width: int) -> Tensor | str:
    """Return suspect's head less the anchor's, [D, features], or a sentence why there is none.

    `width` is D, the length of an embedding.
    """
    ours, theirs = model.state_dict(), anchor.state_dict()
    name = _head_name(ours, width)
    if name is None:
        return "no projection head is known for this architecture"
    if name not in theirs or theirs[name].shape != ours[name].shape:
        return "suspect and anchor differ in architecture"
    mine, its = ours[name].detach().float().cpu(), theirs[name].detach().float().cpu()
    change = mine - its
    if float(change.norm()) <= _SAME * max(1e-12, float(its.norm())):
        return "the head is the anchor's"
    return change.T if re.search(_TRANSPOSED, name) else change


def _head_name(state: dict[str, Tensor], width: int) -> str | None:
    """Return the name of the last layer of the image tower, None if it is not known."""
    for pattern in _HEADS:
        for name, value in state.items():
            if re.search(pattern, name) and value.dim() == 2 and width in value.shape:
                return name
    return None
