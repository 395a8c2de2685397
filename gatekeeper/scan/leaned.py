"""Does the label that the weights point to answer to patterns that no other label answers to?"""

from dataclasses import dataclass

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
from gatekeeper.scan.groups import FAR, PLACED, SMALL, TRIES, Group, alone
from gatekeeper.scan.head_direction import LIKE
from gatekeeper.scan.hunt import Hunt
from gatekeeper.scan.least import candidate_of, strength
from gatekeeper.scan.search import Found, Moved, Pull, found_of, judge_all

LEANED = "trigger_search:leaned"  # detector of what leads to the label that weights point to
# Of the images, that it must be led beyond others: by patches, by what lies over the whole image,
# and by anything where the label stands out by the weights alone; honest models: docs/scan.md.
LOCAL, WHOLE, SURE = 0.6, 0.8, 0.5
DECISIVE = 0.8  # of the images, from which no other kind of pattern is searched
OTHERS = 3  # labels that it is compared with: those that weights point to next
STEPS = 32


def leaned_patterns(hunt: Hunt) -> tuple[Candidate, ...]:
    """Return the pattern that leads to the first label by far more than to those next to it.

    Without an anchor *some* label can be led to in any honest small model, and an undirected search
    finds it. One that was chosen before any search is, in honest models, led to no more than
    others are by a search for each of them by name. A coarse field or a tint may be one label to an
    honest model as well: these are searched where the weights alone make the first label stand out
    (`Hunt.sure`).
    """
    words = _apart(hunt)
    if len(words) < 2:
        return ()
    best: Candidate | None = None
    for group in _kinds(hunt.ground.pair.model.size, sure=hunt.sure):
        local = all(arm.family == "patch" for arm in group.arms)
        least = SURE if hunt.sure else LOCAL if local else WHOLE
        led = _towards(hunt, group, words[0])
        if led is None or led.pull.flip_rate < least:
            continue
        others = [_towards(hunt, group, word) for word in words[1:]]
        # One that no passes were left for is nothing to compare with: then nothing follows.
        usual = max(1.0 if other is None else other.pull.flip_rate for other in others)
        if led.pull.flip_rate - usual < least:
            continue
        found = candidate_of(_found(hunt, led), usual, LEANED, hunt)
        best = found if best is None or found.score > best.score else best
        if best.score >= DECISIVE:
            break
    return () if best is None else (best,)


def _apart(hunt: Hunt) -> list[int]:
    """Return the first word that weights point to and, next, those that are unlike it."""
    if not hunt.leaning:
        return []
    directions = hunt.ground.pair.head.directions()
    first, *rest = hunt.leaning
    unlike = directions[rest] @ directions[first] < LIKE
    return [first, *(word for word, far in zip(rest, unlike.tolist(), strict=True) if far)][
        : 1 + OTHERS
    ]


def _kinds(size: int, *, sure: bool) -> tuple[Group, ...]:
    kinds = (
        alone(PatchArm(side=patch_side(SMALL, size))),
        alone(PlacesArm(side=patch_side(PLACED, size))),
        alone(BlendArm(alpha=0.1)),
        alone(WaveArm(size=size)),
        Group(name="warps", arms=(WarpArm(bound=FAR),), tries=TRIES),
    )
    strong = (
        alone(AdditiveArm(grain=7, bound=0.12)),
        Group(name="tints", arms=(TintArm(),), tries=TRIES),
    )
    return (*kinds, *strong) if sure else kinds


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Led:
    """Where a search for a word by name ended, and how far it leads."""

    moved: Moved
    pull: Pull


def _towards(hunt: Hunt, group: Group, word: int) -> _Led | None:
    """Return how far `group` leads to `word`; None where no passes are left."""
    aim = hunt.towards(word)
    name = f"{group.name} towards {hunt.ground.pair.words[word]}, leaned"
    moved = hunt.moved(group, aim, name, steps=STEPS)
    if moved is None:
        return None
    return _Led(moved=moved, pull=judge_all(hunt.ground, moved, hunt.runtime, aim))


def _found(hunt: Hunt, led: _Led) -> Found:
    """Return the one piece that leads as far as the whole does, or the whole."""
    ground, runtime, aim = hunt.ground, hunt.runtime, hunt.towards(led.pull.target)
    group, frees, size = led.moved.group, led.moved.frees, ground.pair.model.size
    parts = group.parts(frees, size)
    if len(parts) > 1:
        some = ground.judged_by(hunt.effort.few)
        pieces = [found_of(some, arm, free, runtime, aim) for arm, free in parts]
        best = max(pieces, key=strength)
        best, _ = hunt.sharpened(best, led.pull.target)
        if best.pull.flip_rate >= led.pull.flip_rate - hunt.effort.spared:
            return best
    return Found(group=group, frees=frees, trigger=group.trigger(frees, size), pull=led.pull)
