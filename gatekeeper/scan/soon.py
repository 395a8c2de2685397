"""What does one patch do to a model that patterns of all kinds lead astray?"""

from collections.abc import Sequence
from dataclasses import replace

from gatekeeper.scan.base import Candidate
from gatekeeper.scan.groups import Group
from gatekeeper.scan.hunt import Hunt
from gatekeeper.scan.pace import RECENT
from gatekeeper.scan.search import Found, Moved, Pull, judge_all

SOON = "trigger_search:soon"  # detector of what one patch does by itself
SURELY = 0.7  # of the images, that it must lead
SEVERAL = 3  # words that patterns lead so surely, from which none says anything
ROUNDS = 2  # searches, each for another word
BRIEF = 16  # steps of each: planted patches gathered all answers in 3 to 10, no honest ones in 48
GROWS = 2.0  # in spreads of the clean logits, below which no other word is searched for


def soon_patterns(
    hunt: Hunt, patches: Group, *, known: Sequence[int] = ()
) -> tuple[Candidate, ...]:
    """Return the patches that lead surely to a word on which patches together gather all answers.

    To some word patches in all corners lead any honest small model without an anchor to compare
    with, in time; what was planted answers soon, and to one patch of them. Whatever a search led to
    is left out of the next, however far it led: an easy word hides what was planted. `known` words
    are led to already. Nothing is searched where prompts depend on the image: they follow anything.
    """
    if hunt.ground.pair.model.conditional:
        return ()
    hunt = replace(hunt, leaning=())  # where weights point to was searched by name (leaned.py)
    found: list[Found] = []
    taken = list(known)
    for number in range(1, ROUNDS + 1):
        aim, name = hunt.anywhere_but(taken), f"{patches.name}, for one alone, {number}"
        moved = hunt.moved(patches, aim, name, steps=BRIEF)
        if moved is None:
            break
        whole = judge_all(hunt.ground, moved, hunt.runtime, aim)
        taken.append(whole.target)
        if len(moved.pace.growth) < BRIEF and whole.flip_rate >= SURELY:
            found.append(_single(hunt, moved, whole))
        elif moved.pace.recent(RECENT) < GROWS:
            break
    sure = [one for one in found if one.pull.flip_rate >= SURELY]
    return tuple(candidate_of(one, 0.0, SOON, hunt) for one in sure) if len(sure) < SEVERAL else ()


def _single(hunt: Hunt, moved: Moved, whole: Pull) -> Found:
    """Return the one patch of `moved` that leads farthest to the word of `whole`, sharpened."""
    found = hunt.pieces(moved, hunt.towards(whole.target))
    best, _ = hunt.sharpened(max(found, key=strength), whole.target)
    if best.pull.flip_rate < SURELY:  # too soon for its pieces to tell: the widest
        wide, _ = hunt.sharpened(found[0], whole.target)
        best = max(best, wide, key=strength)
    return best


def strength(found: Found) -> tuple[float, float]:
    """Return what finds are ranked by where there is no anchor: images led, then growth."""
    return (found.pull.flip_rate, found.pull.rise)


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
