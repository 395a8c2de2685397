"""One run of compact fine-tuning, from the found triggers to weights that no longer follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel
from gatekeeper.rectify.bank import stamp_varied
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.curated import curate
from gatekeeper.rectify.fair import Fair
from gatekeeper.rectify.found import Found, answers, worst
from gatekeeper.rectify.fresh import Fresh, families_of, inverted, shape_for
from gatekeeper.rectify.ground import Ground, Inversion
from gatekeeper.rectify.mixture import first_block, mixture_of
from gatekeeper.rectify.projection import (
    Correction,
    Projection,
    correct,
    find_projection,
    hidden,
    matrix_of,
)
from gatekeeper.rectify.quality import HeldOut, pays
from gatekeeper.rectify.teacher import Teacher
from gatekeeper.rectify.training import Pool, put, shorten, train
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger

if TYPE_CHECKING:
    from gatekeeper.rectify.compact import CompactFineTuning

# Families whose triggers stand in for one another: a sinusoid was found as a blended field.
KIN = {"blend": ("blend", "additive"), "additive": ("additive", "blend")}


class Repair:
    """What one run learns on its way."""

    def __init__(
        self, method: CompactFineTuning, case: Case, prescription: Prescription, runtime: Runtime
    ) -> None:
        self.method, self.case, self.runtime = method, case, runtime
        self.ground = Ground.of(
            case, prescription, runtime,
            images=method.images, held_out=method.held_out,
            inversion=Inversion(
                families=method.families, steps=method.inversion_steps, bar=method.fresh_bar
            ),
        )  # fmt: skip
        self.head, self.generator = self.ground.head, self.ground.generator
        self.rows, self.notes = list(self.ground.rows), self.ground.notes
        self.blocks = find_blocks(case.model)
        begun = self.ground.model
        self.mixture = mixture_of(begun, case.anchor)
        first = first_block(self.mixture, self.blocks, self._cuts()[0])
        self.teacher = Teacher(case, self.head, self.ground.anchor_head, self.blocks, first)
        if not self.teacher.aligned:
            self.mixture = None
        self.shares = list(method.shares) if self.mixture else []
        self.tower = LateTower(begun, self.blocks, first)
        self.curated = curate(
            case, prescription, self.rows, method.views, self.teacher, self.generator, runtime
        )
        self.clean = self.curated.clean(self.tower, runtime)
        self.found: list[Found] = []
        self.steps = 0
        self.blind = False  # no trigger in hand works: nothing tells when the true one is silent
        self.fair = Fair(self.teacher, self.curated, self.runtime)

    def run(self) -> Rectified:
        """Repair, then measure on the images kept aside."""
        for trigger, target in self.ground.triggers:
            self._add(trigger, target)
        held = self.ground.held()
        if self.found:
            self.blind = self._success() < self.method.fresh_bar
            self._correct_until_quiet()
            self._tune_until_quiet(held)
        return self.ground.finish(
            self.method.name, self.tower.model(), steps=self.steps, held=held, against=self.found
        )

    def _add(self, trigger: Trigger, target: int) -> None:
        """Stamp every image with a variation of `trigger`; the clean one says what it deserves."""
        pixels = stamp_varied(trigger, self.curated.pixels, self.generator)
        pool = Pool(features=self.tower.features(pixels, self.runtime), lesson=self.curated.lesson)
        usual, due = self.fair.due(trigger, target, pixels, self.generator)
        self.found.append(Found(trigger, target, pool, usual, due))

    def _hurt(self) -> float:
        """Return the share of right answers that the worst trigger costs beyond its due."""
        clean = self.clean.features[: len(self.curated.pixels)]
        right = answers(self.tower, clean, self.head, self.runtime)
        return max(
            self.fair.cost(right, self._given(one), one.target) - one.due for one in self.found
        )

    def _given(self, one: Found) -> Tensor:
        return answers(self.tower, one.pool.features, self.head, self.runtime)

    def _inverted(
        self, model: ClipModel, target: int, families: tuple[str, ...], name: str
    ) -> list[Fresh]:
        """Return a fresh trigger of each family and its flip rate on images it has not seen."""
        made = inverted(
            model, self.curated.pixels, self.head, target, families, self.runtime,
            steps=self.method.inversion_steps,
            shape=shape_for(self.case.model, self.found, target),
            name=name, anchor=self.ground.trusted,
        )  # fmt: skip
        self.notes.extend(one.told(name, self.head) for one in made)
        return made

    def _correct_until_quiet(self) -> None:
        """Mix with the anchor, else correct the projection; let fresh triggers join; again."""
        projection = find_projection(self.tower, self.runtime)
        if projection is None:
            self.notes.append("the image tower ends in no single matrix")
        for turn in range(self.method.inversions + 1):
            if self.mixture is None or self.blind or not self._quiet():
                self._quieten(projection)
            if turn == self.method.inversions or not self._let_fresh_join(f"fresh-{turn}"):
                return

    def _quieten(self, projection: Projection | None) -> None:
        """Do what is needed against the triggers now in hand; blindly, all that can be borne."""
        mixed = False
        while self.shares and (self.blind or not self._quiet()):
            self._mix(self.shares.pop(0), projection)
            mixed = True
        if mixed and self.shares:  # the trigger in hand is weaker than the true one: once more
            self._mix(self.shares.pop(0), projection)
        if projection is None or (self.mixture and self._success() <= self.method.bar):
            return
        features = hidden(self.tower, projection, self.clean.features, self.runtime)
        for rank in self.runtime.progress(self.method.ranks, self._label("correcting")):
            self._correct(projection, features, rank)
            if self._near() <= self.method.bar:
                return

    def _mix(self, share: float, projection: Projection | None) -> None:
        """Go on with anchor + `share` * (suspect - anchor), unless clean answers suffer."""
        if self.mixture is None:
            return
        targets = sorted({one.target for one in self.found})
        earlier = self.tower, self.clean, self.found
        model = self.mixture.model(share, projection, self.head.directions()[targets])
        self.tower = LateTower(model, self.blocks, self.tower.cut)
        if not self.mixture.after(self.tower):
            self._see_again()
        lost = self._lost()
        bearable = 0.0 if self.blind else max(self.method.mixed_loss, 2 / len(self.rows))
        if lost > bearable:  # blindly, nothing is paid: it may be a false alarm
            self.tower, self.clean, self.found = earlier
            self.shares = []
            self.notes.append(f"the anchor was not mixed in: {lost:.1%} of clean answers lost")
        else:
            self.notes.append(f"{share:.0%} of the change from the anchor kept")

    def _lost(self) -> float:
        """Return how many more clean images the tower gets wrong than the suspect; a share."""
        count, truth = len(self.curated.pixels), self.curated.lesson.truth
        seen = self.clean.features[:count]
        right = answers(self.tower, seen, self.head, self.runtime) == truth
        known = truth >= 0
        before = self.fair.own() == truth
        return float((before.float() - right.float())[known].sum()) / max(1, len(truth))

    def _correct(self, projection: Projection, features: Tensor, rank: int) -> None:
        """Correct the projection for every found trigger; `features` are the clean ones."""
        matrix, bias = matrix_of(self.tower, projection)
        norm = (features @ matrix + bias).norm(dim=1)[: len(self.curated.pixels)]
        corrections = []
        for one in self.found:
            seen = hidden(self.tower, projection, one.pool.features, self.runtime)
            right = one.pool.lesson.embedding * norm[:, None]
            missing = right - (seen @ matrix + bias)
            corrections.append(Correction(features=seen, missing=missing))
        correct(
            self.tower,
            projection,
            features,
            corrections,
            rank=rank,
            keep=self.method.keep,
            ridge=self.method.ridge,
        )

    def _let_fresh_join(self, name: str) -> bool:
        """Invert triggers against the model as it is now; keep those that work."""
        model = self.tower.model()
        joined = False
        kinds: dict[int, list[str]] = {}
        for known in self.found:
            kinds.setdefault(known.target, []).extend(families_of(known.trigger))
        for target, families in kinds.items():
            related = dict.fromkeys(k for family in families for k in KIN.get(family, (family,)))
            for one in self._inverted(model, target, tuple(related), name):
                if one.excess > self.method.fresh_bar:
                    self._add(one.trigger, target)
                    joined = True
        return joined

    def _tune_until_quiet(self, held: HeldOut) -> None:
        """Fine-tune late blocks, then earlier ones, while a trigger works.

        Where none does but one costs too many right answers, the latest blocks alone are trained,
        and that is kept only where it pays on the images kept aside.
        """
        for place, cut in enumerate(self._cuts()):
            quiet = self._success() <= self.method.bar
            if quiet and (place > 0 or self._mended()):
                return
            before = self.ground.quality(self.tower.model(), held) if quiet else None
            if cut < self.tower.cut:
                self._deepen(cut)
            stamped = self.curated.stocked(
                self.tower, self.method.stock, self.generator, self.runtime
            )
            for one in self.found:
                stamped = stamped.joined(one.pool)
            if len(self.curated.victims):
                stamped = stamped.joined(self.curated.victim_pool(self.tower, self.runtime))
            start = [p.detach().clone() for p in self.tower.parameters]
            train(
                self.tower, self.clean, stamped, self.head, self.method.weights, self.runtime,
                steps=self.method.steps, rate=self.method.rate, batch=self.method.batch,
                name=f"cut-{cut}", what=f"fine-tuning from block {cut}",
                targets=tuple({one.target for one in self.found}),
            )  # fmt: skip
            self.steps += self.method.steps
            shorten(self.tower, start, self._healed)
            if before and not pays(before, self.ground.quality(self.tower.model(), held)):
                self.notes.append("fine-tuning for the labels under the trigger did not pay")
                put(self.tower, start)

    def _healed(self) -> bool:
        """Return whether no trigger works, and none costs more right answers than it must."""
        return self._success() <= self.method.bar and self._mended()

    def _quiet(self) -> bool:
        """Return the same with near misses: what is cheap goes on until these are gone too."""
        return self._near() <= self.method.bar and self._mended()

    def _mended(self) -> bool:
        return self._hurt() <= self.method.hurt

    def _deepen(self, cut: int) -> None:
        """Go on from the present weights with earlier blocks trainable."""
        self.tower = LateTower(self.tower.model(), self.blocks, cut)
        self._see_again()

    def _see_again(self) -> None:
        """Compute all early features with the present tower."""
        self.clean = self.curated.clean(self.tower, self.runtime)
        old, self.found = self.found, []
        for one in old:
            self._add(one.trigger, one.target)

    def _success(self, margin: float = 0.0) -> float:
        """Return the worst trigger's success on the images learned from."""
        deserved = self.curated.lesson.embedding
        return worst(self.tower, self.found, deserved, self.head, self.runtime, margin)

    def _near(self) -> float:
        return self._success(self.method.margin)

    def _cuts(self) -> list[int]:
        if not self.blocks.path:
            return [0]
        count = self.blocks.count
        return list(dict.fromkeys(count - max(1, round(d * count)) for d in self.method.depths))

    def _label(self, what: str) -> str:
        return f"{what}, attack success {self._success():.0%}"
