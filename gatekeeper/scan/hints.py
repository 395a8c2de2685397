"""What earlier detectors saw, as a place for a trigger search to start from."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gatekeeper.scan.arms import AdditiveArm, Arm, BlendArm, PatchArm, PlacesArm, TintArm, WarpArm
from gatekeeper.scan.base import Detection
from gatekeeper.scan.groups import Group
from gatekeeper.triggers import Additive, Blend, Colour, Patch, Trigger, Warp

MOST = 3  # labels that are searched for by name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hint:
    """A label that earlier evidence points to, and a pattern to start from."""

    target: int  # word
    strength: float
    trigger: Trigger | None

    def fits(self, group: Group) -> bool:
        """Return whether `group` may hold what was seen; where no pattern was, any may."""
        return self.trigger is None or bool(self.narrowed(group).arms)

    def narrowed(self, group: Group) -> Group:
        """Return `group` with the arms that can take up the pattern; all where there is none."""
        if self.trigger is None:
            return group
        arms = tuple(arm for arm in group.arms if resumed(arm, self.trigger) is not None)
        return Group(name=group.name, arms=arms)


def hints_of(
    earlier: Sequence[Detection], words: Sequence[str], *, seen: float, named: float
) -> tuple[Hint, ...]:
    """Return the labels that detections point to, strongest first, one each.

    With a pattern by `seen` (growth) or more, without one by `named` (lead of a label in the change
    of the weights).

    A pattern says where to search, a bare direction only that one must: of two hints to one label
    the one with a pattern is kept.
    """
    index = {word: i for i, word in enumerate(words)}
    best: dict[int, Hint] = {}
    for candidate in (c for d in earlier for c in d.candidates):
        target = index.get(candidate.target)
        least = named if candidate.trigger is None else seen
        if target is None or candidate.score < least:
            continue
        hint = Hint(target=target, strength=candidate.score, trigger=candidate.trigger)
        known = best.get(target)
        if known is None or _rank(hint) > _rank(known):
            best[target] = hint
    return tuple(sorted(best.values(), key=lambda h: -h.strength)[:MOST])


def resumed(arm: Arm, trigger: Trigger | None) -> Tensor | None:
    """Return the arm's parameters nearest to `trigger`, None where it is of another family."""
    if isinstance(arm, PatchArm | PlacesArm) and isinstance(trigger, Patch):
        return arm.resume(trigger.pixels)
    if isinstance(arm, BlendArm) and isinstance(trigger, Blend):
        return arm.resume(trigger.pattern)
    if isinstance(arm, AdditiveArm) and isinstance(trigger, Additive):
        return arm.resume(trigger.delta)
    if isinstance(arm, WarpArm) and isinstance(trigger, Warp):
        return arm.resume(trigger.field)
    if isinstance(arm, TintArm) and isinstance(trigger, Colour):
        return arm.resume(trigger.matrix)
    return None


def _rank(hint: Hint) -> tuple[bool, float]:
    return (hint.trigger is not None, hint.strength)
