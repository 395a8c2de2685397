"""Search a group of families, take what moves the answers to pieces, sharpen the best piece."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gatekeeper.runtime import Runtime
from gatekeeper.scan.arms import Arm, PatchArm
from gatekeeper.scan.groups import Group, alone
from gatekeeper.scan.hints import Hint, resumed
from gatekeeper.scan.pace import RECENT, Aim, Pace
from gatekeeper.scan.search import (
    Found,
    Ground,
    Moved,
    Pull,
    found_of,
    judge_all,
    neighbours,
    optimise,
    start_of,
)
from gatekeeper.types import SearchStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard a search tries; the defaults are measured in docs/scan.md."""

    steps: int = 48
    brief: int = 24  # steps for what else there may be once a trigger was found
    long: int = 96  # steps towards a word that something else points to
    batch: int = 4  # images a step; each costs three passes
    promising: float = 0.15  # paired flip rate from which a group is taken to pieces
    followed: float = 0.8  # growth from which the word that leads is searched on for by name
    worth: float = 0.3  # of a piece, from which it is sharpened
    shared: float = 0.75  # of a whole, from which pieces are sharpened that move nothing alone
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

    def undirected(
        self, group: Group, taken: Sequence[int], *, brief: bool = False
    ) -> Result | None:
        """Search for what leads to any word but those `taken`; None where no passes are left.

        Where a word has grown that the images do not answer yet, the search goes on towards it.
        `brief`: for what else there may be once a trigger was found; it does not go on.
        """
        name = group.name + "".join(f" without {self._word(t)}" for t in taken)
        aim = self._aim(excluded=self._excluded(taken))
        moved = self._moved(group, aim, name, steps=self.effort.brief if brief else None)
        if moved is None:
            return None
        result = self._result(moved, aim)
        leader = moved.pace.leader
        # Where there are many parameters, or no anchor, some word always grows a little.
        telling = group.tries > 1 and self._anchored() and not brief
        if telling and result.found is None and moved.pace.recent(RECENT) >= self.effort.followed:
            name = f"{name}, on towards {self._word(leader)}"
            onward = self._moved(group, self._aim(target=leader), name, moved.frees)
            if onward is not None:
                again = self._result(onward, self._aim(target=leader))
                result = max(result, again, key=lambda r: r.pull.paired)
        return replace(result, undirected=True)

    def directed(self, group: Group, hint: Hint) -> Result | None:
        """Search for what leads to the word of `hint`, from its pattern where it has one."""
        group = hint.narrowed(group)
        aim = self._aim(target=hint.target)
        name = f"{group.name} towards {self._word(hint.target)}"
        fresh = self._start(group, aim, name)
        known = [resumed(arm, hint.trigger) for arm in group.arms]
        frees = [f if k is None else k for f, k in zip(fresh, known, strict=True)]
        moved = self._moved(group, aim, name, frees, steps=self.effort.long)
        return None if moved is None else self._result(moved, aim)

    def _result(self, moved: Moved, aim: Aim) -> Result:
        """Return what a search came to, taken to pieces where the whole is promising."""
        whole = judge_all(self.ground, moved, self.runtime, aim)
        found, steps = None, moved.steps
        if whole.paired >= self.effort.promising:
            found, more = self._piece(moved, whole, aim)
            steps += more
        return Result(whole=whole, found=found, undirected=False, pace=moved.pace, steps=steps)

    def _piece(self, moved: Moved, whole: Pull, aim: Aim) -> tuple[Found, tuple[SearchStep, ...]]:
        """Return the piece that leads most images to one word, sharpened where it is worth it.

        Where the whole moves the images and no piece does, they share the work: each is then
        searched on towards the word of the whole.
        """
        ground, runtime, effort = self.ground, self.runtime, self.effort
        parts = moved.group.parts(moved.frees, ground.pair.model.size)
        some = ground.judged_by(effort.few) if len(parts) > 1 else ground
        pieces = [found_of(some, arm, free, runtime, aim) for arm, free in parts]
        best = max(pieces, key=_strength)
        word = best.pull.target
        if best.pull.paired < effort.worth:
            if whole.paired < effort.shared:
                return best, ()
            word = whole.target
        steps: tuple[SearchStep, ...] = ()
        for piece in _in_turn(best, pieces):
            if piece.pull.paired >= effort.decisive and piece.pull.target == word:
                return self._judged(piece, word), steps
            sharper, more = self._sharpened(piece, word)
            steps += more
            best = max(best, sharper, key=_strength)
            if sharper.pull.paired >= effort.decisive:
                return sharper, steps
        return self._judged(best, best.pull.target), steps

    def _judged(self, piece: Found, target: int) -> Found:
        """Return `piece`, judged on all images that judge."""
        return found_of(self.ground, piece.arm, piece.free, self.runtime, Aim(target=target))

    def _sharpened(self, piece: Found, target: int) -> tuple[Found, tuple[SearchStep, ...]]:
        """Return `piece` searched on alone, towards `target`."""
        name, aim = f"{piece.arm.name} towards {self._word(target)}", Aim(target=target)
        moved = self._moved(alone(piece.arm), aim, name, (piece.free,))
        if moved is None:
            return piece, ()
        return found_of(self.ground, piece.arm, moved.frees[0], self.runtime, aim), moved.steps

    def _start(self, group: Group, aim: Aim, name: str) -> tuple[Tensor, ...]:
        return start_of(self.ground, group, aim, self.runtime, batch=self.effort.batch, name=name)

    def _moved(
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

    def led(self, found: Found) -> float | None:
        """Return how many of the anchor's images a like search leads to the word of `found`.

        It starts from what led the suspect there, and may move on. A planted trigger leads the
        suspect alone; what an honest model has in common with its base leads both.
        """
        if not self._anchored():
            return None
        mirror = replace(self, ground=self.ground.mirrored(), limit=math.inf)  # never left out
        name = f"{found.arm.name} towards {self._word(found.pull.target)}, the anchor"
        aim = Aim(target=found.pull.target)
        moved = mirror._moved(alone(found.arm), aim, name, (found.free,))
        if moved is None:
            return None
        return found_of(mirror.ground, found.arm, moved.frees[0], self.runtime, aim).pull.flip_rate

    def _anchored(self) -> bool:
        return self.ground.pair.anchor is not None

    def _aim(self, *, target: int | None = None, excluded: Tensor | None = None) -> Aim:
        return Aim(target=target, excluded=excluded, paired=self._anchored())

    def _excluded(self, taken: Sequence[int]) -> Tensor:
        pair = self.ground.pair
        return torch.cat([pair.decoys, *(neighbours(pair, word) for word in taken)])

    def _generator(self, name: str) -> torch.Generator:
        return self.runtime.generator("scan", "hunt", name)

    def _word(self, target: int) -> str:
        return self.ground.pair.words[target]


def _in_turn(best: Found, pieces: Sequence[Found]) -> list[Found]:
    """Return the pieces to sharpen, in turn.

    Of patches those that fit anywhere come first, the smallest before all: what fires everywhere
    says more of a trigger than what fires in one corner, and a small patch more than a large one
    around it. Of other families the best comes first.
    """
    if best.arm.family != "patch":
        return [best, *sorted((p for p in pieces if p is not best), key=_strength)[::-1]]
    free = [p for p in pieces if isinstance(p.arm, PatchArm) and p.arm.place is None]
    turn = sorted(free, key=lambda p: _side(p.arm))
    return turn if best in turn else [*turn, best]


def _side(arm: Arm) -> int:
    return arm.side if isinstance(arm, PatchArm) else 0


def _strength(found: Found) -> tuple[float, float]:
    return (found.pull.paired, found.pull.rise)
