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
from gatekeeper.scan.search import (
    Found,
    Ground,
    Moved,
    Pull,
    found_of,
    judge_all,
    neighbours,
    optimise,
)
from gatekeeper.types import SearchStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard a search tries; the defaults are measured in docs/scan.md."""

    steps: int = 48
    batch: int = 4  # images a step; each costs three passes
    promising: float = 0.15  # paired flip rate from which a group is taken to pieces
    worth: float = 0.3  # of a piece, from which it is sharpened
    starts: int = 2  # of a search less the anchor's growth; one misses a quarter of overlays
    led: float = 0.5  # of a whole, unpaired, from which it matters that the anchor is led too
    shared: float = 0.75  # of a whole, from which pieces are sharpened that move nothing alone
    decisive: float = 0.8  # of a piece, from which it need not be


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What searching a group came to."""

    whole: Pull  # all arms at once
    found: Found | None  # the best piece; None where the whole moves nothing
    undirected: bool
    paired: bool  # searched less what leads the anchor as well
    steps: tuple[SearchStep, ...]

    @property
    def pull(self) -> Pull:
        """Return what the best piece does; where there is none, what the whole does."""
        return self.whole if self.found is None else self.found.pull


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hunt:
    """One model's searches, within `limit` passes on the runtime's meter."""

    ground: Ground
    effort: Effort
    limit: float
    runtime: Runtime

    def undirected(
        self, group: Group, taken: Sequence[int], *, paired: bool = False, deep: bool = True
    ) -> Result | None:
        """Search for what leads to any word but those `taken`; None where no passes are left.

        Where it turns out that suspect and anchor are led together, which hides all else, it is
        searched again less the anchor's growth; `paired` does so at once. Not `deep`: one search,
        for what else there may be once a trigger was found.
        """
        result = self._undirected(group, taken, paired=paired)
        if result is None or not deep or not (paired or self._shared(result.whole)):
            return result
        starts = range(1, self.effort.starts) if paired else range(self.effort.starts)
        for start in starts:
            if result.pull.paired >= self.effort.promising:
                break
            again = self._undirected(group, taken, paired=True, number=start)
            result = max(result, again or result, key=lambda r: r.pull.paired)
        return replace(result, paired=True)

    def _undirected(
        self, group: Group, taken: Sequence[int], *, paired: bool, number: int = 0
    ) -> Result | None:
        excluded = self._excluded(taken)
        name = group.name + "".join(f" without {self._word(t)}" for t in taken)
        name += " less the anchor" if paired else ""
        name += f", start {number + 1}" if number else ""
        start = group.start(self._generator(name))
        moved = self._moved(group, start, name, excluded=excluded, paired=paired)
        return None if moved is None else self._result(moved, excluded=excluded, paired=paired)

    def _shared(self, whole: Pull) -> bool:
        return self._anchored() and whole.flip_rate >= self.effort.led > whole.paired

    def directed(self, group: Group, hint: Hint) -> Result | None:
        """Search for what leads to the word of `hint`, from its pattern where it has one."""
        group = hint.narrowed(group)
        name = f"{group.name} towards {self._word(hint.target)}"
        fresh = group.start(self._generator(name))
        known = [resumed(arm, hint.trigger) for arm in group.arms]
        frees = [f if k is None else k for f, k in zip(fresh, known, strict=True)]
        moved = self._moved(group, frees, name, target=hint.target)
        return None if moved is None else self._result(moved, target=hint.target)

    def _result(
        self,
        moved: Moved,
        *,
        target: int | None = None,
        excluded: Tensor | None = None,
        paired: bool = False,
    ) -> Result:
        """Return what a search came to, taken to pieces where the whole is promising."""
        whole = judge_all(self.ground, moved, self.runtime, target=target, excluded=excluded)
        found, steps = None, moved.steps
        if whole.paired >= self.effort.promising:
            found, more = self._piece(moved, whole, target=target, excluded=excluded)
            steps += more
        undirected = target is None
        return Result(whole=whole, found=found, undirected=undirected, paired=paired, steps=steps)

    def _piece(
        self,
        moved: Moved,
        whole: Pull,
        *,
        target: int | None = None,
        excluded: Tensor | None = None,
    ) -> tuple[Found, tuple[SearchStep, ...]]:
        """Return the piece that leads most images to one word, sharpened where it is worth it.

        Where the whole moves the images and no piece does, they share the work: each is then
        searched on towards the word of the whole.
        """
        ground, runtime, effort = self.ground, self.runtime, self.effort
        pieces = [
            found_of(ground, arm, free, runtime, target=target, excluded=excluded)
            for arm, free in moved.group.parts(moved.frees, ground.pair.model.size)
        ]
        best = max(pieces, key=_strength)
        word = best.pull.target
        if best.pull.paired < effort.worth:
            if whole.paired < effort.shared:
                return best, ()
            word = whole.target
        steps: tuple[SearchStep, ...] = ()
        for piece in _in_turn(best, pieces):
            if piece.pull.paired >= effort.decisive and piece.pull.target == word:
                return piece, steps
            sharper, more = self._sharpened(piece, word)
            steps += more
            best = max(best, sharper, key=_strength)
            if sharper.pull.paired >= effort.decisive:
                return sharper, steps
        return best, steps

    def _sharpened(self, piece: Found, target: int) -> tuple[Found, tuple[SearchStep, ...]]:
        """Return `piece` searched on alone, towards `target`."""
        name = f"{piece.arm.name} towards {self._word(target)}"
        moved = self._moved(alone(piece.arm), (piece.free,), name, target=target)
        if moved is None:
            return piece, ()
        found = found_of(self.ground, piece.arm, moved.frees[0], self.runtime, target=target)
        return found, moved.steps

    def _moved(
        self,
        group: Group,
        frees: Sequence[Tensor],
        name: str,
        *,
        target: int | None = None,
        excluded: Tensor | None = None,
        paired: bool = False,
    ) -> Moved | None:
        """Search, unless that would take more passes than are left."""
        models = 2 if self._anchored() else 1
        judgings = 8  # the whole and its pieces, seven at most
        judging = judgings * models * len(self.ground.judges.pixels)
        cost = 3 * self.effort.batch * self.effort.steps + judging
        if self.runtime.meter.image_passes + cost > self.limit:
            return None
        return optimise(
            self.ground,
            group,
            frees,
            self.effort.steps,
            self.effort.batch,
            self.runtime,
            target=target,
            excluded=excluded,
            paired=paired,
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
        moved = mirror._moved(alone(found.arm), (found.free,), name, target=found.pull.target)
        if moved is None:
            return None
        frees, target = moved.frees[0], found.pull.target
        return found_of(mirror.ground, found.arm, frees, self.runtime, target=target).pull.flip_rate

    def _anchored(self) -> bool:
        return self.ground.pair.anchor is not None

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
