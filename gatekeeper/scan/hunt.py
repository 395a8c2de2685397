"""Search a group of families, take what moves the answers to pieces, sharpen the best piece."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gatekeeper.runtime import Runtime
from gatekeeper.scan.arms import PatchArm
from gatekeeper.scan.groups import Group
from gatekeeper.scan.hints import Hint, resumed
from gatekeeper.scan.pace import RECENT, Aim, Pace
from gatekeeper.scan.pair import neighbours
from gatekeeper.scan.search import (
    Found,
    Ground,
    Moved,
    Pull,
    found_of,
    judge_all,
    judge_trigger,
    optimise,
    start_of,
)
from gatekeeper.triggers import Composite
from gatekeeper.types import SearchStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard a search tries; the defaults are measured in docs/scan.md."""

    steps: int = 48
    long: int = 96  # towards a word that something points to, where families have few parameters
    quick: int = 24  # towards a word that patterns of another group lead to together
    batch: int = 4  # images a step; each costs three passes
    promising: float = 0.15  # paired flip rate from which a group is taken to pieces
    followed: float = 0.8  # growth from which the word that leads is searched on for by name
    worth: float = 0.3  # of a piece, from which it is sharpened
    shared: float = 0.75  # of a whole, from which it counts where no piece does as much
    leant: float = 0.55  # the same where weights point to the word that it leads to
    gap: float = 0.3  # by which it must do more
    spared: float = 0.1  # of the images, that a whole may lose with a member that it does without
    decisive: float = 0.8  # of a piece, from which it need not be
    few: int = 8  # judging images that tell pieces apart


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What searching a group came to."""

    whole: Pull  # all arms at once
    found: Found | None  # the best piece; None where the whole moves nothing
    undirected: bool
    pace: Pace
    steps: tuple[SearchStep, ...]
    usual: float = 0.0  # flip rate that counts as nothing

    @property
    def pull(self) -> Pull:
        """Return what the best piece does; where there is none, what the whole does."""
        return self.whole if self.found is None else self.found.pull


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hunt:
    """One model's searches, within `limit` passes on the runtime's meter.

    With an anchor all growth counts less the anchor's: what leads both hides all else, and what
    leads the suspect alone stands out within a few steps.
    """

    ground: Ground
    effort: Effort
    limit: float
    runtime: Runtime
    leaning: tuple[int, ...] = ()  # words that the weights point to, most first; empty: to none
    sure: bool = False  # whether they alone make the first of these stand out

    @property
    def lean(self) -> int | None:
        """Return the word that the weights point to most."""
        return self.leaning[0] if self.leaning else None

    def undirected(
        self, group: Group, taken: Sequence[int], *, brief: bool = False
    ) -> Result | None:
        """Search for what leads to any word but those `taken`; None where no passes are left.

        Where a word has grown that the images do not answer yet, the search goes on towards it.
        `brief`: for what else there may be once a trigger was found; it is given up sooner.
        """
        name = group.name + "".join(f" without {self._word(t)}" for t in taken)
        aim = replace(self.anywhere_but(taken), brief=brief)
        moved = self.moved(group, aim, name)
        if moved is None:
            return None
        result = self._result(moved, aim)
        leader = moved.pace.leader
        # Where there are many parameters, or no anchor, some word always grows a little.
        telling = group.tries > 1 and self._anchored() and not brief
        if telling and result.found is None and moved.pace.recent(RECENT) >= self.effort.followed:
            name = f"{name}, on towards {self._word(leader)}"
            onward = self.moved(group, self.towards(leader), name, moved.frees)
            if onward is not None:
                again = self._result(onward, self.towards(leader))
                result = max(result, again, key=lambda r: r.pull.paired)
        return replace(result, undirected=True)

    def directed(self, group: Group, hint: Hint, *, quick: bool = False) -> Result | None:
        """Search for what leads to the word of `hint`, from its pattern where it has one.

        `quick`: for what else leads there, where patterns are known that do; given up soon.
        """
        group = hint.narrowed(group)
        aim = replace(self.towards(hint.target), brief=quick)
        name = f"{group.name} towards {self._word(hint.target)}"
        steps = self.effort.long if group.tries > 1 else self.effort.steps
        fresh = self._start(group, aim, name)
        known = [resumed(arm, hint.trigger) for arm in group.arms]
        frees = [f if k is None else k for f, k in zip(fresh, known, strict=True)]
        moved = self.moved(group, aim, name, frees, steps=self.effort.quick if quick else steps)
        return None if moved is None else self._result(moved, aim)

    def _result(self, moved: Moved, aim: Aim) -> Result:
        """Return what a search came to, taken to pieces where the whole is promising."""
        whole = judge_all(self.ground, moved, self.runtime, aim)
        found, steps = None, moved.steps
        # A window hides a quarter of what the anchor sees: its answers gather on words of its own.
        hides = not moved.group.together and whole.beyond >= self.effort.worth
        if whole.paired >= self.effort.promising or hides:
            found, more = self._piece(moved, whole, aim)
            steps += more
        return Result(
            whole=whole,
            found=found,
            undirected=False,
            pace=moved.pace,
            steps=steps,
            usual=moved.group.usual,
        )

    def _piece(self, moved: Moved, whole: Pull, aim: Aim) -> tuple[Found, tuple[SearchStep, ...]]:
        """Return the piece that leads most images to one word, sharpened where it is worth it.

        Where the whole moves the images and no piece does, they work together, and the whole is
        what was found.
        """
        effort, pieces = self.effort, self.pieces(moved, aim)
        best = max(pieces, key=_strength)
        steps: tuple[SearchStep, ...] = ()
        if best.pull.paired >= effort.worth:
            best, steps = self._best(best, pieces)
        # Without an anchor so many patterns at once say nothing: they hide what is in the image.
        several = self._anchored() and len(pieces) > 1 and moved.group.together
        least = effort.leant if whole.target == self.lean else effort.shared
        if several and whole.paired >= max(least, best.pull.paired + effort.gap):
            best = self._together(moved, whole)
        return best, steps

    def _best(self, best: Found, pieces: Sequence[Found]) -> tuple[Found, tuple[SearchStep, ...]]:
        """Return the piece that leads most images to the word of `best`, sharpened if need be."""
        word = best.pull.target
        steps: tuple[SearchStep, ...] = ()
        for piece in _in_turn(best, pieces):
            if piece.pull.paired >= self.effort.decisive and piece.pull.target == word:
                best = piece
                break
            sharper, more = self.sharpened(piece, word)
            steps += more
            best = max(best, sharper, key=_strength)
            if sharper.pull.paired >= self.effort.decisive:
                break
        aim = Aim(target=best.pull.target)  # judged on all images that judge
        return found_of(self.ground, best.group.arms[0], best.frees[0], self.runtime, aim), steps

    def _together(self, moved: Moved, whole: Pull) -> Found:
        """Return all arms as one trigger, less the members without which it does as much."""
        ground, runtime, aim = self.ground, self.runtime, Aim(target=whole.target)
        trigger = moved.group.trigger(moved.frees, ground.pair.model.size)
        some = ground.judged_by(self.effort.few)
        for member in trigger.members if isinstance(trigger, Composite) else ():
            rest = trigger.without(member) if isinstance(trigger, Composite) else trigger
            least = whole.flip_rate - self.effort.spared
            if judge_trigger(some, rest, runtime, aim).flip_rate >= least:
                trigger = rest
        pull = judge_trigger(ground, trigger, runtime, aim)
        return Found(group=moved.group, frees=moved.frees, trigger=trigger, pull=pull)

    def pieces(self, moved: Moved, aim: Aim) -> list[Found]:
        """Return each part of what a search found, alone; of several, judged on a few images."""
        parts = moved.group.parts(moved.frees, self.ground.pair.model.size)
        some = self.ground.judged_by(self.effort.few) if len(parts) > 1 else self.ground
        return [found_of(some, arm, free, self.runtime, aim) for arm, free in parts]

    def sharpened(self, piece: Found, target: int) -> tuple[Found, tuple[SearchStep, ...]]:
        """Return `piece` searched on alone, towards `target`."""
        name, aim = f"{piece.group.name} towards {self._word(target)}", Aim(target=target)
        moved = self.moved(piece.group, aim, name, piece.frees)
        if moved is None:
            return piece, ()
        arm = piece.group.arms[0]
        return found_of(self.ground, arm, moved.frees[0], self.runtime, aim), moved.steps

    def _start(self, group: Group, aim: Aim, name: str) -> tuple[Tensor, ...]:
        return start_of(self.ground, group, aim, self.runtime, batch=self.effort.batch, name=name)

    def moved(
        self,
        group: Group,
        aim: Aim,
        name: str,
        frees: Sequence[Tensor] | None = None,
        *,
        steps: int | None = None,
    ) -> Moved | None:
        """Search, from a random start or `frees`, unless it would take more passes than are left.

        The cost that is left is reckoned with two models and eight judgings, of which seven are
        the pieces'.
        """
        effort, models = self.effort, 2 if self._anchored() else 1
        steps = steps or effort.steps
        judging = 8 * models * len(self.ground.judges.pixels)
        cost = 3 * (2 if aim.paired else 1) * effort.batch * steps + judging
        if self.runtime.meter.image_passes + cost > self.limit:
            return None
        return optimise(
            self.ground,
            group,
            self._start(group, aim, name) if frees is None else frees,
            aim,
            self.runtime,
            steps=steps,
            batch=effort.batch,
            name=name,
        )

    def exchanged(self, group: Group, target: int | None, steps: int) -> float:
        """Return how far as long a search leads the *anchor* beyond the suspect, 0 at least.

        Two honest models differ, and either can be led where the other is not. A plant is in one
        of them: the anchor has no weakness like it that the suspect has lost. Without an anchor
        there is nothing to exchange.
        """
        if not self._anchored():
            return 0.0
        other = replace(self, ground=self.ground.exchanged(), limit=math.inf)  # never left out
        aim, where = self.anywhere_but(()), "the anchor"
        if target is not None:
            aim, where = self.towards(target), f"the anchor, towards {self._word(target)}"
        moved = other.moved(group, aim, f"{group.name}: {where}", steps=steps)
        assert moved is not None  # noqa: S101 - there is no limit
        return max(0.0, judge_all(other.ground, moved, self.runtime, aim).paired)

    def _anchored(self) -> bool:
        return self.ground.pair.anchor is not None

    def towards(self, target: int) -> Aim:
        """Return the aim to lead images to `target`."""
        return Aim(target=target, paired=self._anchored())

    def anywhere_but(self, taken: Sequence[int]) -> Aim:
        """Return the aim to lead images to any label but those `taken` and what is like them."""
        pair = self.ground.pair
        excluded = torch.cat([pair.decoys, *(neighbours(pair, word) for word in taken)])
        lean = None if self.lean is None or self.lean in excluded else self.lean
        return Aim(excluded=excluded, lean=lean, paired=self._anchored())

    def _word(self, target: int) -> str:
        return self.ground.pair.words[target]


def _in_turn(best: Found, pieces: Sequence[Found]) -> list[Found]:
    """Return the pieces to sharpen, in turn.

    Of patches those that fit anywhere come first, the smallest before all: what fires everywhere
    says more of a trigger than what fires in one corner, and a small patch more than a large one
    around it. Of other families the best comes first.
    """
    if not best.local:
        return [best, *sorted((p for p in pieces if p is not best), key=_strength)[::-1]]
    free = {p: arm.side for p in pieces if (arm := _free(p)) is not None}
    turn = sorted(free, key=free.__getitem__)
    return turn if best in turn else [*turn, best]


def _free(piece: Found) -> PatchArm | None:
    """Return the arm of a patch that fits anywhere; None: it is none."""
    arm = piece.group.arms[0]
    return arm if isinstance(arm, PatchArm) and arm.place is None else None


def _strength(found: Found) -> tuple[float, float]:
    return (found.pull.paired, found.pull.rise)
