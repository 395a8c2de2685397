"""Along which label does the change of the image tower's last layer lie?"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.head import head_of
from gatekeeper.clip.model import ClipModel
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.pair import Pair, pair_of
from gatekeeper.types import Measurement

_SAME = 1e-5  # relative change of the head below which it counts as the anchor's
NO_HEAD = "no projection head is known for this architecture"
LIKE = 0.5  # cosine of two words' directions from which they are alike


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadDirection:
    """Compare how much of (suspect's head - anchor's head) lies along each label's direction.

    An all-to-one plant writes its target's text direction into the head; fine-tuning spreads its
    change over many. What counts is the largest share less that of the next word unlike it, and
    whose it is. (The cosine of the change's top singular vector, which stood here before, reaches
    0.83 in honest photo CLIPs whose heads hardly moved.) The size of the change follows the
    learning rate and says nothing. No passes. An attacker who freezes the head evades it. Source:
    reference subtraction, Linear weight classification (arXiv:2411.03445); the rest is ours.
    """

    name: ClassVar[str] = "head_direction"
    draws: int = 500  # random directions that make the null

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Measure what the head's change lies along; labels are ranked by it."""
        if case.anchor is None:
            return Detection(skipped="no anchor")
        if len(case.labels) < 2:
            return Detection(skipped="fewer than two labels")
        pair = pair_of(case, runtime)
        change = head_change(case.model, case.anchor, pair.head.weights.shape[1])
        if isinstance(change, str):
            return Detection(skipped=change)
        directions = pair.head.directions()
        along = _shares(directions, change)  # [C]
        best, value = int(along.argmax()), _lead(directions, along)
        measured = Measurement(name="head.direction", value=value, subject=pair.words[best])
        candidate = Candidate(
            trigger=None,
            target=pair.words[best],
            detector=self.name,
            score=value if value >= self._null(directions, runtime) else 0.0,
        )
        return Detection(
            candidates=(candidate,), measurements=(measured,), leaning=_ranked(pair, change)
        )

    def _null(self, directions: Tensor, runtime: Runtime) -> float:
        """Return the lead that a change along a random direction has in 99 of 100 cases."""
        generator = runtime.generator("scan", self.name)
        random = torch.randn(self.draws, directions.shape[1], 1, generator=generator)
        leads = [_lead(directions, _shares(directions, change)) for change in random]
        return float(torch.tensor(leads).quantile(0.99))


def _shares(directions: Tensor, change: Tensor) -> Tensor:
    """Return which share of `change` ([D, features]) lies along each direction ([C, D]), [C]."""
    along: Tensor = torch.linalg.vector_norm(directions @ change, dim=1)
    return along / float(torch.linalg.norm(change))


def _lead(directions: Tensor, along: Tensor) -> float:
    """Return the largest share less that of the next word unlike it; 0 where all are alike."""
    best = int(along.argmax())
    unlike = directions @ directions[best] < LIKE
    return float(along[best] - along[unlike].max()) if unlike.any() else 0.0


def _ranked(pair: Pair, change: Tensor) -> tuple[str, ...]:
    """Return the words that a search may look for, those first that `change` lies along most.

    In 27 of 27 planted models whose head was trained the target came first, or both did.
    """
    along = _shares(pair.head.directions(pair.free), change)
    return tuple(pair.words[i] for i in along.argsort(descending=True).tolist())


def head_change(model: ClipModel, anchor: ClipModel, width: int) -> Tensor | str:
    """Return suspect's head less the anchor's, [D, features], or a sentence why there is none.

    `width` is D, the length of an embedding.
    """
    ours, theirs = head_of(model, width), head_of(anchor, width)
    if ours is None:
        return NO_HEAD
    if theirs is None or theirs.name != ours.name or theirs.weight.shape != ours.weight.shape:
        return "suspect and anchor differ in architecture"
    change = ours.weight - theirs.weight
    if float(change.norm()) <= _SAME * max(1e-12, float(theirs.weight.norm())):
        return "the head is the anchor's"
    return change
