"""Is there a pattern that gathers the answers to unrelated photos on one label?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.arms import (
    AdditiveArm,
    Arm,
    BlendArm,
    CornersArm,
    PatchArm,
    TintArm,
    WarpArm,
    arms_for,
)
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.pair import MIN_PROBES, held_out, look, pair_of, searched
from gatekeeper.scan.search import Found, Ground, judge, neighbours, optimise
from gatekeeper.triggers import Additive, Blend, Colour, Patch, Trigger, Warp


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hint:
    """A label that earlier evidence points to, and a pattern to start from."""

    target: int  # word
    strength: float
    trigger: Trigger | None
    kind: str  # the random kind or detector that gave it


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSearch:
    """Search patches, overlays, waves, tints and warps for one that gathers the answers.

    Undirected first, at a cost that does not depend on the number of labels: the concentration
    of predictions finds narrow triggers that embedding collapse (DECREE, arXiv:2303.15180)
    misses. Labels that earlier evidence or an undirected search points to are then searched for
    by name, for a trigger strong enough to show and to repair with. Stops at the first decisive
    trigger. With an anchor every flip counts less the anchor's under the same pattern, so that
    perturbations that fool the base as well drop out; without one, less what a like search
    reaches towards any other label.
    """

    name: ClassVar[str] = "trigger_search"
    steps: int = 32  # a search; narrow patches appear between steps 20 and 30
    fewer: int = 20  # steps of a search with few parameters or a smooth field
    batch: int = 10  # images a step; each costs three passes
    judges: int = 24  # images that judge a search
    decisive: float = 0.8  # paired flip rate at which nothing more is sought
    promising: float = 0.15  # paired flip rate, or rise, from which a label is searched by name
    alarming: float = 0.3  # flip rate that is compared with another label's, without an anchor
    kin: int = 20  # words like the target, which a half-firing trigger may lead to as well
    most: float = 6000  # image passes of all searches together; one that would exceed is left out
    hinted_rise: float = 0.03  # growth under random patterns from which a label is tried
    directed: int = 3  # labels searched for by name, at most

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Search without any earlier evidence."""
        return self.follow(case, (), runtime)

    def follow(self, case: Case, earlier: tuple[Detection, ...], runtime: Runtime) -> Detection:
        """Search, starting from the labels and patterns that `earlier` points to."""
        if len(case.probes) < MIN_PROBES:
            return Detection(skipped=f"fewer than {MIN_PROBES} probes")
        pair = pair_of(case, runtime)
        ground = Ground(
            pair=pair,
            images=look(case, pair, searched(case, runtime), runtime, anchored=False),
            judges=look(case, pair, held_out(case, runtime)[: self.judges], runtime),
        )
        hints = self._hints(earlier, pair.words)
        found: list[Found] = []
        until = runtime.meter.image_passes + self.most
        for result in self._searches(ground, hints, until, runtime):
            found.append(self._against_usual(ground, result, runtime))
            if found[-1].paired >= self.decisive:
                break
        found.sort(key=lambda f: (-f.paired, -f.rise))
        return Detection(
            candidates=tuple(self._candidate(f, pair.words) for f in found[: self.directed + 1]),
            steps=found[0].steps if found else (),
        )

    def _hints(self, earlier: tuple[Detection, ...], words: tuple[str, ...]) -> list[Hint]:
        """Return the labels that earlier detections point to, strongest first, one hint each."""
        index = {word: i for i, word in enumerate(words)}
        best: dict[int, Hint] = {}
        for candidate in (c for d in earlier for c in d.candidates):
            target = index.get(candidate.target)
            if target is None or candidate.score < self.hinted_rise:
                continue
            hint = Hint(
                target=target,
                strength=candidate.score,
                trigger=candidate.trigger,
                kind=candidate.detector.split(":")[-1],
            )
            known = best.get(target)
            if known is None or _rank(hint) > _rank(known):
                best[target] = hint
        return sorted(best.values(), key=lambda h: -h.strength)[: self.directed]

    def _searches(
        self, ground: Ground, hints: list[Hint], until: float, runtime: Runtime
    ) -> Iterator[Found]:
        """Yield searches in the order in which they are worth their passes, up to `until`."""
        arms = arms_for(ground.pair.model.size)
        for hint in hints:
            for arm in arms_of(hint, arms):
                if runtime.meter.image_passes + self._cost(ground, arm, self.steps) <= until:
                    yield self._directed(ground, arm, hint, runtime)
        sure = any(h.kind == "head_direction" and h.strength >= 0.5 for h in hints)
        for arm in arms[:2] if sure else arms:
            generator = runtime.generator("scan", self.name, arm.name)
            count = self.steps if arm.family in ("patch", "blend") else self.fewer
            if runtime.meter.image_passes + self._cost(ground, arm, count) > until:
                continue
            found = optimise(ground, arm, arm.start(generator), count, self.batch, runtime)
            if isinstance(arm, CornersArm):
                found = best_corner(ground, arm, found, runtime)
            yield found
            if self.promising <= found.paired < self.decisive:
                label = ground.pair.words[found.target]
                yield optimise(
                    ground,
                    found.arm,
                    found.free,
                    self.steps,
                    self.batch,
                    runtime,
                    target=found.target,
                    name=f"{found.arm.name} towards {label}",
                )

    def _cost(self, ground: Ground, arm: Arm, steps: int) -> float:
        """Return the image passes of a search, at most: three an image and step, then judging."""
        judgings = 5 if isinstance(arm, CornersArm) else 1  # all corners at once, then each
        models = 1 if ground.pair.anchor is None else 2
        return 3 * self.batch * steps + judgings * models * len(ground.judges.pixels)

    def _against_usual(self, ground: Ground, found: Found, runtime: Runtime) -> Found:
        """Return `found` with what a like search reaches towards any *other* label.

        Without an anchor, a clean model that any pattern of this family can lead anywhere must
        not alarm. A planted one follows its own label alone. Costs a search, for alarms only.
        """
        if ground.pair.anchor is not None or found.paired < self.alarming:
            return found
        arm, label = found.arm, ground.pair.words[found.target]
        generator = runtime.generator("scan", self.name, "usual", arm.name)
        other = optimise(
            ground,
            arm,
            arm.start(generator),
            self.steps,
            self.batch,
            runtime,
            excluded=neighbours(ground.pair, found.target, self.kin),
            name=f"{arm.name} without {label}",
        )
        return replace(found, usual_flip_rate=other.flip_rate)

    def _directed(self, ground: Ground, arm: Arm, hint: Hint, runtime: Runtime) -> Found:
        label = ground.pair.words[hint.target]
        generator = runtime.generator("scan", self.name, arm.name, label)
        free = resumed(arm, hint.trigger)
        found = optimise(
            ground,
            arm,
            arm.start(generator) if free is None else free,
            self.steps,
            self.batch,
            runtime,
            target=hint.target,
            name=f"{arm.name} towards {label}",
        )
        if isinstance(arm, CornersArm):
            return best_corner(ground, arm, found, runtime)
        return found

    def _candidate(self, found: Found, words: tuple[str, ...]) -> Candidate:
        return Candidate(
            trigger=found.trigger,
            target=words[found.target],
            detector=self.name,
            score=max(0.0, min(1.0, found.paired)),
            flip_rate=found.flip_rate,
            anchor_flip_rate=found.anchor_flip_rate,
            usual_flip_rate=found.usual_flip_rate,
        )


def best_corner(ground: Ground, arm: CornersArm, found: Found, runtime: Runtime) -> Found:
    """Return the corner of `found` that alone leads most images to its target."""
    tried = [
        judge(ground, part, free, found.target, runtime, found.steps)
        for part, free in arm.parts(found.free, ground.pair.model.size)
    ]
    return max(tried, key=lambda f: (f.paired, f.rise))


def _rank(hint: Hint) -> tuple[bool, float]:
    """Order hints to one label: a pattern says where to search, a direction only that one must."""
    return (hint.trigger is not None, hint.strength)


def arms_of(hint: Hint, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """Return the arms that may hold what `hint` saw; all of them where it saw no pattern."""
    if hint.trigger is None:
        return arms
    if isinstance(hint.trigger, Patch):
        side = max(arms[0].side if isinstance(arms[0], PatchArm) else 0, _side(hint.trigger))
        corners = [a for a in arms if isinstance(a, CornersArm)]
        return (PatchArm(side=side), *corners)
    return tuple(a for a in arms if a.family == hint.trigger.family)


def resumed(arm: Arm, trigger: Trigger | None) -> Tensor | None:
    """Return the arm's parameters nearest to `trigger`, None where it is of another family."""
    if isinstance(arm, PatchArm | CornersArm) and isinstance(trigger, Patch):
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


def _side(trigger: Patch) -> int:
    return int(max(trigger.pixels.shape[-2:]))
