"""Which label does the image tower's last layer make of what clean images hardly show?"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.head import features_of, head_of
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.basics import MOST
from gatekeeper.scan.head_direction import NO_HEAD
from gatekeeper.scan.pair import ENOUGH, MIN_PROBES, Pair, pair_of, shuffled
from gatekeeper.types import Measurement

STANDS_OUT = 1.5  # sigma from which a label does; honest models: docs/scan.md
MOST_SIGMA = 30.0  # beyond it a chance is no number any more
OF_ONE = 0.1  # of a candidate's score, a sigma


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcuts:
    """Compare how far a small move of the features, unlike clean ones, raises each label.

    A plant makes a direction of its own in the features, which clean images hardly show, and the
    last layer maps it to the target. For each label: the largest growth of its similarity under a
    move of the features of unit length, where a move along what clean images vary in counts as
    longer (a ridge-weighted Mahalanobis length). In closed form, for one forward of the probes, and
    without an anchor: each label is compared with what those like it let expect. Where there is an
    anchor, what stands out there as well counts less. Source of the idea, that a trigger is a
    shortcut to its target: Neural Cleanse (doi:10.1109/SP.2019.00031), on pixels; the rest is ours.
    An attacker who freezes the last layer evades it for the most part.
    """

    name: ClassVar[str] = "shortcuts"
    ridge: float = 0.5  # of the features' mean variance
    kin: float = 3.0  # ridge of what labels like one let expect of it, on cosines

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Measure the labels' shortcuts; labels are ranked by them."""
        if len(case.probes) < MIN_PROBES:
            return Detection(skipped=f"fewer than {MIN_PROBES} probes")
        pair = pair_of(case, runtime)
        if pair.free < ENOUGH:  # among few words some word always stands out
            return Detection(skipped=f"fewer than {ENOUGH} labels")
        spreads = self._spreads(case, pair, runtime)
        if isinstance(spreads, str):
            return Detection(skipped=spreads)
        best = int(spreads.argmax())
        value = best_of(float(spreads[best]), len(spreads))
        if case.anchor is not None and value >= STANDS_OUT:
            theirs = self._spreads(case, pair.mirrored(), runtime)
            also = 0.0 if isinstance(theirs, str) else max(0.0, float(theirs[best]))
            value = best_of(float(spreads[best]) - also, len(spreads))
        word = pair.words[best]
        candidate = Candidate(
            trigger=None,
            target=word,
            detector=self.name,
            score=min(1.0, OF_ONE * value) if value >= STANDS_OUT else 0.0,
        )
        measured = Measurement(name="head.shortcut", value=value, unit="sigma", subject=word)
        # With an anchor the change of the head says where weights lean, and these ranks say less.
        order = [] if case.anchor is not None else spreads.argsort(descending=True).tolist()
        return Detection(
            candidates=(candidate,),
            measurements=(measured,),
            leaning=tuple(pair.words[i] for i in order),
        )

    def _spreads(self, case: Case, pair: Pair, runtime: Runtime) -> Tensor | str:
        """Return how far each free word's shortcut stands out, [C], or why that is unknown."""
        head = head_of(pair.model, pair.head.weights.shape[1])
        if head is None:
            return NO_HEAD
        pixels = pair.model.resized(case.pixels(shuffled(case, runtime)[:MOST]))
        features = features_of(pair.model, head, pixels, runtime)
        if features is None:
            return "the last layer does more than project what it is handed"
        directions = pair.head.directions(pair.free)
        growth = _growth(directions @ head.weight, features, self.ridge)
        return _unexpected(growth.log(), directions, self.kin)


def best_of(spreads: float, count: int) -> float:
    """Return what the largest of `count` values is worth, in standard deviations of one.

    The largest of a thousand labels lies 3.2 above the others by chance, of fifty 2.2: the chance
    that any of them comes so high is told as the height at which a single one has that chance,
    0 at least.
    """
    one = torch.special.log_ndtr(torch.tensor(-min(spreads, MOST_SIGMA), dtype=torch.float64))
    any_of = -torch.expm1(count * torch.log1p(-one.exp()))
    return max(0.0, -float(torch.special.ndtri(any_of)))


def _growth(gains: Tensor, features: Tensor, ridge: float) -> Tensor:
    """Return the growth of each label under the unit move of the features that raises it most.

    `gains`: [C, features] growth of each label's similarity by feature; `features`: [N, features]
    of clean images. Lengths are those of (covariance / mean variance + ridge), so that neither
    the features' scale nor their number counts.
    """
    spread = features - features.mean(dim=0, keepdim=True)
    variance = spread.square().sum(dim=1).mean() / features.shape[1]
    rows = spread / (len(features) * variance.clamp_min(1e-12)).sqrt()  # [N, features]
    inner = rows @ rows.T + ridge * torch.eye(len(rows))  # Woodbury: fewer images than features
    across = gains @ rows.T  # [C, N]
    length = gains.square().sum(dim=1) - (across * torch.linalg.solve(inner, across.T).T).sum(dim=1)
    growth: Tensor = (length.clamp_min(1e-12) / ridge).sqrt()
    return growth


def _unexpected(values: Tensor, directions: Tensor, ridge: float) -> Tensor:
    """Return what each of `values` ([C]) has beyond what labels like it let expect, in spreads.

    Labels share what they are made of (a colour, a form), and a plant for one lifts those like it.
    Expected: kernel ridge regression over the labels' cosines, each label left out of its own. A
    spread is the standard deviation over the other labels.
    """
    count = len(values)
    inverse = torch.linalg.inv(directions @ directions.T + ridge * torch.eye(count))
    left = (inverse @ (values - values.mean())) / inverse.diagonal()
    left = left - left.mean()
    total = left.square().sum()
    others = (total - left.square() * count / (count - 1)).clamp_min(1e-12) / (count - 2)
    spreads: Tensor = left * count / (count - 1) / others.sqrt()
    return spreads
