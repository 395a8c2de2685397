"""Does one label grow when clean photos carry patterns that nobody chose?"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.pair import MIN_PROBES, Clean, Pair, look, pair_of, rises, searched
from gatekeeper.scan.patterns import KINDS, Kind, stamp_fresh
from gatekeeper.types import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPatterns:
    """Put fresh random patterns on clean photos and watch the labels' mean probability.

    A trigger that was planted without contrast fires for its whole family; a narrow one leaves a
    weak sign that still names its label. No gradients: one pass an image and kind, on suspect and
    anchor each. The strongest label of every kind is returned as a candidate, alarming or not:
    the trigger search starts from them.
    """

    name: ClassVar[str] = "random_patterns"
    images: int = 16  # each with a pattern of its own of every kind
    worth: float = 0.02  # growth below which the anchor is not asked: it could only lower it

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Measure the rise of every label under each kind of pattern."""
        if len(case.probes) < MIN_PROBES:
            return Detection(skipped=f"fewer than {MIN_PROBES} probes")
        pair = pair_of(case, runtime)
        clean = look(case, pair, searched(case, runtime)[: self.images], runtime)
        kinds = runtime.progress(KINDS, "random patterns")
        found = [c for kind in kinds for c in self._screen(kind, pair, clean, runtime)]
        found.sort(key=lambda c: -c.score)
        rise = Measurement(
            name="random.rise",
            value=max(0.0, min(1.0, found[0].score)),
            n=len(clean.pixels),
            subject=found[0].target,
        )
        return Detection(candidates=tuple(found), measurements=(rise,))

    def _screen(self, kind: Kind, pair: Pair, clean: Clean, runtime: Runtime) -> list[Candidate]:
        """Return the word that grows most under `kind`, less the anchor's growth.

        Where that is a decoy, the user's label that grows most comes second.
        """
        generator = runtime.generator("scan", self.name, kind.name)
        pixels, drawn = stamp_fresh(kind, clean.pixels, generator)
        after = pair.answers(pixels, runtime)
        growth = rises(clean.before, after)
        moved, anchor_moved = _moved(clean.before, after), None
        if float(growth.max()) >= self.worth and clean.anchor_before is not None:
            anchor_after = pair.anchor_answers(pixels, runtime)
            assert anchor_after is not None  # noqa: S101 - it answered the clean images
            growth = growth - rises(clean.anchor_before, anchor_after).clamp_min(0)
            anchor_moved = _moved(clean.anchor_before, anchor_after)
        growth[pair.decoys] = -1.0  # out of the question
        leaders = [int(growth.argmax()), int(growth[: pair.own].argmax())]
        return [
            Candidate(
                trigger=drawn[int((after - clean.before)[:, word].argmax())],
                target=pair.words[word],
                detector=f"{self.name}:{kind.name}",
                score=float(growth[word]),
                flip_rate=float(moved[word]),
                anchor_flip_rate=None if anchor_moved is None else float(anchor_moved[word]),
            )
            for word in dict.fromkeys(leaders)
        ]


def _moved(before: Tensor, after: Tensor) -> Tensor:
    """Return for every word the share of images whose answer became it, [C]."""
    was, now = before.argmax(dim=1), after.argmax(dim=1)
    counts = torch.bincount(now[now != was], minlength=before.shape[1]).float()
    return counts / max(1, len(before))
