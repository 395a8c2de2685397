"""What do the least of patterns do to a model that patterns of all kinds lead astray?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gatekeeper.scan.arms import Arm, BlendArm, PatchArm, WaveArm, patch_side
from gatekeeper.scan.base import Candidate
from gatekeeper.scan.groups import PLACED, Group, alone
from gatekeeper.scan.hunt import Hunt
from gatekeeper.scan.search import Found, found_of, judge_all

LEAST = "trigger_search:least"  # detector of what one small or faint pattern does by itself
SURELY = 0.7  # of the images; where nothing like them was planted such led 0.62 at most
SEVERAL = 3  # words that they lead so many images to, from which none says anything
PATCHES, FAINT = 4, 2  # searches, each for another word
QUICK = 36  # steps within which patches together gather all answers only where one was planted
LED = 0.3  # of the images, by patches together, below which no other word is searched for


def least_patterns(
    hunt: Hunt, patches: Group, *, known: Sequence[int] = ()
) -> tuple[Candidate, ...]:
    """Return what one small patch or faint overlay leads surely, whatever other patterns do.

    An honest model without an anchor to compare with is led by tints, by overlays of a fifth, by
    patches in all corners at once. One patch of an eighth of the side, an overlay of a tenth, a
    wave, each searched alone, lead few images in it; what was planted answers them. A rate counts
    less the most that the same kind does towards words that it does not lead surely. Where patches
    together gather all answers soon, one of any size, at any place, counts in full. `known` words
    are led to already.
    """
    hunt = replace(hunt, leaning=())  # where weights point to was searched by name (leaned.py)
    size = hunt.ground.pair.model.size
    faint: tuple[Arm, ...] = (BlendArm(alpha=0.1), WaveArm(size=size))
    kinds = [_finds(hunt, patches, PATCHES, known, least=LED)]
    kinds += [_finds(hunt, alone(arm), FAINT, known, least=0.0) for arm in faint]
    found = [candidate for finds in kinds for candidate in _candidates(finds, hunt)]
    return tuple(found) if len({c.target for c in found}) < SEVERAL else ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Find:
    """The best single pattern towards one word."""

    found: Found
    quick: bool  # many together gathered all answers on that word soon

    @property
    def sure(self) -> bool:
        return self.found.pull.flip_rate >= SURELY


def _finds(
    hunt: Hunt, group: Group, rounds: int, known: Sequence[int], *, least: float
) -> list[_Find]:
    """Return the best single pattern for each word, not `known`, that `group` leads to.

    `least` of the images, that is, or more.
    """
    finds: list[_Find] = []
    for number in range(rounds):
        taken = [*known, *(find.found.pull.target for find in finds)]
        find = _next(hunt, group, taken, number, least)
        if find is None:
            break
        finds.append(find)
    return finds


def _next(
    hunt: Hunt, group: Group, taken: Sequence[int], number: int, least: float
) -> _Find | None:
    """Return the single pattern nearest to a word that is not `taken`, sharpened; None: none."""
    ground, runtime = hunt.ground, hunt.runtime
    aim, size = hunt.anywhere_but(taken), ground.pair.model.size
    moved = hunt.moved(group, aim, f"{group.name}, for one alone, {number + 1}")
    if moved is None:
        return None
    whole = judge_all(ground, moved, runtime, aim)
    if whole.flip_rate < least:
        return None
    towards, side = hunt.towards(whole.target), patch_side(PLACED, size)
    parts = group.parts(moved.frees, size)
    quick = len(parts) > 1 and len(moved.pace.growth) <= QUICK and not ground.pair.model.conditional
    single = [(arm, free) for arm, free in parts if quick or _small(arm, side)]
    some = ground.judged_by(hunt.effort.few) if len(single) > 1 else ground
    found = [found_of(some, arm, free, runtime, towards) for arm, free in single]
    best = max(found, key=strength)
    if len(single) > 1 or hunt.effort.promising <= best.pull.flip_rate < SURELY:
        best, _ = hunt.sharpened(best, whole.target)
    if quick and best.pull.flip_rate < SURELY:  # too soon for its pieces to tell: the widest
        wide, _ = hunt.sharpened(found[0], whole.target)
        best = max(best, wide, key=strength)
    return _Find(found=best, quick=quick)


def strength(found: Found) -> tuple[float, float]:
    """Return what finds are ranked by where there is no anchor: images led, then growth."""
    return (found.pull.flip_rate, found.pull.rise)


def _small(arm: Arm, side: int) -> bool:
    """Return whether `arm` is a patch of at most `side` pixels at one place, or no patch.

    One that may lie anywhere is harder to make: it led 0.42 where placed ones led all.
    """
    return not isinstance(arm, PatchArm) or (arm.place is not None and arm.side <= side)


def _candidates(finds: Sequence[_Find], hunt: Hunt) -> list[Candidate]:
    """Return those of one kind that lead surely, each with what the others of its kind do."""
    slow = max((f.found.pull.flip_rate for f in finds if not f.sure), default=0.0)
    return [
        candidate_of(find.found, 0.0 if find.quick else slow, LEAST, hunt)
        for find in finds
        if find.sure
    ]


def candidate_of(found: Found, usual: float, detector: str, hunt: Hunt) -> Candidate:
    """Return what `found` does beyond the `usual` rate, where there is no anchor."""
    return Candidate(
        trigger=found.trigger,
        target=hunt.ground.pair.words[found.pull.target],
        detector=detector,
        score=max(0.0, found.pull.flip_rate - usual),
        flip_rate=found.pull.flip_rate,
        anchor_flip_rate=None,
        usual_flip_rate=usual,
    )
