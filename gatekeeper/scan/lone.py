"""What does one small patch do to a model that patterns of all kinds lead astray?"""

from collections.abc import Sequence

from gatekeeper.scan.arms import PatchArm, patch_side
from gatekeeper.scan.base import Candidate
from gatekeeper.scan.groups import PLACED, Group
from gatekeeper.scan.hunt import Hunt
from gatekeeper.scan.search import Found, found_of, judge_all

LONE = "trigger_search:patch"  # detector of what one small patch does by itself
SURELY = 0.7  # of the images; one small patch led 0.62 at most where no patch was planted
SEVERAL = 3  # words that small patches lead so many images to, from which none says anything


def lone_patches(hunt: Hunt, group: Group, rounds: int) -> tuple[Candidate, ...]:
    """Return what a small patch leads surely, whatever other patterns do.

    An honest model without an anchor to compare with is led by tints, by overlays, by patches in
    all corners at once. One patch of an eighth of the side, searched on alone towards each word
    that patches together lead to, leads few images in it. Its rate counts less the most that
    such a patch does towards the words that none leads surely.
    """
    finds: list[Found] = []
    for number in range(rounds):
        found = _next(hunt, group, [f.pull.target for f in finds], number)
        if found is None:
            break
        finds.append(found)
    sure = [found for found in finds if found.pull.flip_rate >= SURELY]
    if len(sure) >= SEVERAL:
        return ()
    usual = max((f.pull.flip_rate for f in finds if f.pull.flip_rate < SURELY), default=0.0)
    return tuple(_candidate(found, usual, hunt) for found in sure)


def _next(hunt: Hunt, group: Group, taken: Sequence[int], number: int) -> Found | None:
    """Return the small patch nearest to a word that is not `taken`; None: all lead nowhere."""
    ground, runtime, effort = hunt.ground, hunt.runtime, hunt.effort
    aim = hunt.anywhere_but(taken)
    moved = hunt.moved(group, aim, f"{group.name}, for one alone, {number + 1}")
    if moved is None:
        return None
    whole = judge_all(ground, moved, runtime, aim)
    if whole.flip_rate < effort.worth:
        return None
    towards = hunt.towards(whole.target)
    least, some = patch_side(PLACED, ground.pair.model.size), ground.judged_by(effort.few)
    small = [
        found_of(some, arm, free, runtime, towards)
        for arm, free in group.parts(moved.frees, ground.pair.model.size)
        if isinstance(arm, PatchArm) and arm.side <= least
    ]
    best = max(small, key=lambda found: (found.pull.flip_rate, found.pull.rise))
    return hunt.sharpened(best, whole.target)[0]


def _candidate(found: Found, usual: float, hunt: Hunt) -> Candidate:
    pull = found.pull
    return Candidate(
        trigger=found.trigger,
        target=hunt.ground.pair.words[pull.target],
        detector=LONE,
        score=max(0.0, pull.flip_rate - usual),
        flip_rate=pull.flip_rate,
        anchor_flip_rate=None,
        usual_flip_rate=usual,
    )
