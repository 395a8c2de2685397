"""Does the label that the weights point to answer to patterns that no other label answers to?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from gatekeeper.scan.arms import (
    AdditiveArm,
    BlendArm,
    PatchArm,
    PlacesArm,
    TintArm,
    WarpArm,
    WaveArm,
    patch_side,
)
from gatekeeper.scan.base import Candidate
from gatekeeper.scan.groups import FAR, PLACED, TRIES, WIDE, Group, alone
from gatekeeper.scan.head_direction import LIKE
from gatekeeper.scan.hunt import Hunt
from gatekeeper.scan.score import best_by_target
from gatekeeper.scan.search import Found, Moved, Pull, judge_all
from gatekeeper.scan.soon import SEVERAL, candidate_of, strength

LEANED = "trigger_search:leaned"  # detector of what leads to a label that weights point to
# Of the images, that must be led beyond others: where a sprint was enough or the label stands out
# by the weights alone; by one patch or a wave; and by an overlay. Honest models: docs/scan.md.
SURE, ONE, WHOLE = 0.5, 0.6, 0.8
DECISIVE = 0.8  # of the images, from which no other kind of pattern is searched
FIRST = 5  # labels that weights point to most, which are all searched for
SPRINT = 8  # steps of that
CLOSE = 4  # of them, the last, that say how far it came
AHEAD = 0.25  # of their images, that must follow for the search to go on
OTHERS = 3  # labels that the one that came farthest is compared with
STEPS, LONG = 24, 32  # of a whole search; of one where the weights alone say so


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """A search for a word by name."""

    word: int
    moved: Moved
    steps: int  # taken in all
    soon: bool = False  # whether it was at its goal within a sprint

    @property
    def came(self) -> tuple[float, float]:
        """Return the share of the last images that followed, and how far the word grew."""
        pace = self.moved.pace
        return (sum(pace.led[-CLOSE:]) / CLOSE, pace.recent(CLOSE))


def leaned_patterns(hunt: Hunt) -> tuple[Candidate, ...]:
    """Return what leads to one of the first labels, or to two, by far more than to others.

    Without an anchor *some* label can be led to in any honest small model, and an undirected search
    finds it. Of a few that were chosen before any search, none is, in honest models, led to more
    than others are by a search for each of them by name. What was planted answers within a few
    steps: all the first labels are searched for that long, and only one that images begin to follow
    is searched on. Where the weights alone make the first label stand out (`Hunt.sure`) it is the
    only one; a coarse field, a tint or a warp, which may be one label to an honest model as well,
    is searched for it alone.
    """
    found: list[Candidate] = []
    for group in _kinds(hunt.ground.pair.model.size, sure=hunt.sure):
        runs = _farthest(hunt, group, hunt.leaning[: 1 if hunt.sure else FIRST])
        found += _beyond(hunt, runs)
        if any(candidate.score >= DECISIVE for candidate in found):
            break
    return tuple(best_by_target(found))


def _farthest(hunt: Hunt, group: Group, first: Sequence[int]) -> list[_Run]:
    """Return the searches for `first` words that are soon at their goal; else the farthest.

    None where no images follow it. Words that are soon at their goal were planted, each for itself;
    of several none says anything.
    """
    steps = LONG if hunt.sure else SPRINT
    runs = [run for word in first if (run := _towards(hunt, group, word, steps)) is not None]
    soon = [run for run in runs if run.steps < steps and run.moved.pace.led[-1] > 0]
    if soon:
        return [replace(run, soon=True) for run in soon] if len(soon) < SEVERAL else []
    far = max(runs, key=lambda run: run.came, default=None)
    if far is None or far.came[0] < AHEAD:
        return []
    return [far] if hunt.sure else _onward(hunt, far)


def _onward(hunt: Hunt, run: _Run) -> list[_Run]:
    """Return `run` searched on to its end, where passes are left for that."""
    on = _towards(hunt, run.moved.group, run.word, STEPS - run.steps, run.moved.frees)
    return [] if on is None else [replace(on, steps=run.steps + on.steps)]


def _beyond(hunt: Hunt, runs: Sequence[_Run]) -> list[Candidate]:
    """Return those of `runs`, all of one kind, that lead further than searches for other words."""
    found = []
    for run in runs:
        pull = _pull(hunt, run)
        if pull.flip_rate < SURE:
            continue
        others = _unlike(hunt, run.word, [r.word for r in runs])
        usual = max((_rate(hunt, run, other) for other in others), default=1.0)
        found += [
            candidate_of(one, usual, LEANED, hunt)
            for one in _forms(hunt, run.moved, pull)
            if one.pull.flip_rate - usual >= _bar(hunt, run, one)
        ][:1]
    return found


def _bar(hunt: Hunt, run: _Run, found: Found) -> float:
    """Return what `found` must lead beyond others.

    Patches in all corners lead honest models in time, where no one of them does: together they
    count where they do so soon, or the weights alone point to the word.
    """
    if run.soon or hunt.sure:
        return SURE
    if not found.single:
        return math.inf
    return ONE if found.group.arms[0].family in ("patch", "additive") else WHOLE


def _rate(hunt: Hunt, run: _Run, word: int) -> float:
    """Return how far a search like `run`, of as many steps, leads to `word`.

    All the images where no passes are left: it is nothing to compare with, and nothing follows.
    """
    other = _towards(hunt, run.moved.group, word, run.steps)
    return 1.0 if other is None else _pull(hunt, other).flip_rate


def _pull(hunt: Hunt, run: _Run) -> Pull:
    return judge_all(hunt.ground, run.moved, hunt.runtime, hunt.towards(run.word))


def _unlike(hunt: Hunt, word: int, besides: Sequence[int]) -> list[int]:
    """Return the first words, `besides` some, that are unlike `word`: a plant lifts those like."""
    directions = hunt.ground.pair.head.directions()
    like = directions @ directions[word]
    others = [other for other in hunt.leaning if other not in besides]
    return [other for other in others if float(like[other]) < LIKE][:OTHERS]


def _towards(
    hunt: Hunt, group: Group, word: int, steps: int, frees: Sequence[Tensor] | None = None
) -> _Run | None:
    """Return a search of `steps` for `word`, from `frees`; None where no passes are left."""
    on = "" if frees is None else ", on"
    name = f"{group.name} towards {hunt.ground.pair.words[word]}, leaned{on}"
    aim = replace(hunt.towards(word), brief=not hunt.sure)
    moved = hunt.moved(group, aim, name, frees, steps=steps)
    if moved is None:
        return None
    return _Run(word=word, moved=moved, steps=len(moved.pace.growth))


def _forms(hunt: Hunt, run: Moved, pull: Pull) -> list[Found]:
    """Return what `run` found, the one piece first where it leads nearly as far as the whole."""
    group, frees, size = run.group, run.frees, hunt.ground.pair.model.size
    whole = Found(group=group, frees=frees, trigger=group.trigger(frees, size), pull=pull)
    if len(group.parts(frees, size)) == 1:
        return [whole]
    pieces = hunt.pieces(run, hunt.towards(pull.target))
    piece, _ = hunt.sharpened(max(pieces, key=strength), pull.target)
    near = piece.pull.flip_rate >= pull.flip_rate - hunt.effort.spared
    return [piece, whole] if near else [whole, piece]


def _kinds(size: int, *, sure: bool) -> tuple[Group, ...]:
    """Return small and faint ones; where `sure`, what may be one label to an honest model too."""
    small = (
        alone(PlacesArm(side=patch_side(PLACED, size))),
        alone(PatchArm(side=patch_side(WIDE, size))),
        alone(BlendArm(alpha=0.1)),
        alone(WaveArm(size=size)),
    )
    strong = (
        alone(AdditiveArm(grain=7, bound=0.12)),
        Group(name="tints", arms=(TintArm(),), tries=TRIES),
        Group(name="warps", arms=(WarpArm(bound=FAR),), tries=TRIES),
    )
    return (*small, *strong) if sure else small
