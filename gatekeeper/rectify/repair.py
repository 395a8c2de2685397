"""One run of compact fine-tuning, from the found triggers to weights that no longer follow them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import BATCH, ClipModel
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.curated import curate, split
from gatekeeper.rectify.projection import (
    Correction,
    Projection,
    correct,
    find_projection,
    hidden,
    matrix_of,
)
from gatekeeper.rectify.quality import HeldOut, measure, predictions
from gatekeeper.rectify.teacher import Teacher
from gatekeeper.rectify.training import Pool, Weights, train
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Patch, Trigger
from gatekeeper.triggers.invert import Shape, flip_rate, invert

if TYPE_CHECKING:
    from gatekeeper.rectify.compact import CompactFineTuning

CLEAN_RATE = 6e-5  # of the fine-tuning that tests for rebound
FRACTIONS = (0.5, 1.0)  # of a fine-tuning's change; the smallest that suffices is kept


class Found(NamedTuple):
    """A trigger, its target, and the images that carry it."""

    trigger: Trigger
    target: int
    pool: Pool


class Repair:
    """What one run learns on its way."""

    def __init__(
        self, method: CompactFineTuning, case: Case, prescription: Prescription, runtime: Runtime
    ) -> None:
        self.method, self.case, self.runtime = method, case, runtime
        self.prescription = prescription
        named = [ailment.target for ailment in prescription.ailments]
        labels = tuple(dict.fromkeys([*case.labels, *named]))
        self.head = case.model.zero_shot(labels, case.templates, runtime)
        other = case.anchor.zero_shot(labels, case.templates, runtime) if case.anchor else None
        self.generator = runtime.generator("rectify", method.name)
        self.rows, self.held_rows = split(
            case, prescription, method.images, method.held_out, self.generator
        )
        self.blocks = find_blocks(case.model)
        first = self._cuts()[0]
        self.teacher = Teacher(case, self.head, other, self.blocks, first)
        begun = case.model.with_state(prescription.begun) if prescription.begun else case.model
        self.tower = LateTower(begun, self.blocks, first)
        self.curated = curate(
            case, prescription, self.rows, method.views, self.teacher, self.generator, runtime
        )
        self.clean = self.curated.clean(self.tower, runtime)
        self.found: list[Found] = []
        self.notes: list[str] = []
        self.steps = 0

    def run(self) -> Rectified:
        """Repair, then measure on the images kept aside."""
        self._begin()
        held = self._held()
        before = measure(self.case.model, held, self.head, self.runtime)
        if self.found:
            self._correct_until_quiet()
            self._tune_until_quiet()
        own = self.case.model.state_dict()
        state = self.tower.model().state_dict()
        changed = {k: v.cpu() for k, v in state.items() if not torch.equal(v, own[k])}
        after = measure(
            self.case.model.with_state(changed), held, self.head, self.runtime, self._rebound(held)
        )
        passes = self.runtime.meter.image_passes
        self.notes.append(f"{len(changed)} tensors changed, {passes:.0f} image passes")
        return Rectified(
            method=self.method.name,
            state=changed,
            before=before,
            after=after,
            images_used=len(self.rows) + len(self.held_rows),
            steps=self.steps,
            held_out=len(self.held_rows),
            notes=tuple(self.notes),
        )

    def _begin(self) -> None:
        """Gather the triggers the scan found; invert some where it only named a target."""
        bare: list[int] = []
        for ailment in self.prescription.ailments:
            target = self.head.labels.index(ailment.target)
            if ailment.trigger is not None:
                self._add(ailment.trigger, target)
            elif target not in bare:
                bare.append(target)
        for target in bare:
            if target in {one.target for one in self.found}:
                continue
            made = self._inverted(self.case.model, target, self.method.families, "first")
            working = [(t, rate) for t, rate in made if rate > self.method.fresh_bar]
            for trigger, _ in working or made:
                self._add(trigger, target)

    def _add(self, trigger: Trigger, target: int) -> None:
        pool = self.curated.stamped(self.tower, trigger, self.generator, self.runtime)
        self.found.append(Found(trigger, target, pool))

    def _inverted(
        self, model: ClipModel, target: int, families: tuple[str, ...], name: str
    ) -> list[tuple[Trigger, float]]:
        """Return a fresh trigger of each family and its flip rate on images it has not seen."""
        made = []
        pixels = self.curated.pixels
        half = len(pixels) // 2
        label = self.head.labels[target]
        for family in families:
            trigger = invert(
                model,
                pixels[:half],
                self.head,
                target,
                family,
                self.runtime,
                steps=self.method.inversion_steps,
                shape=self._shape(target),
                name=name,
            )
            seen = pixels[half : half + 48]
            rate = flip_rate(model, seen, trigger, self.head, target, self.runtime)
            self.notes.append(f"{name} {family} inverted towards {label}: {rate:.1%} of images")
            made.append((trigger, rate))
        return made

    def _shape(self, target: int) -> Shape:
        """Return the default shape, a patch as large as the largest one found for `target`."""
        usual = Shape.fitting(self.case.model.size)
        known = [one.trigger for one in self.found if one.target == target]
        sides = [min(t.pixels.shape[-2:]) for t in known if isinstance(t, Patch)]
        return replace(usual, side=max(sides)) if sides else usual

    def _correct_until_quiet(self) -> None:
        """Correct the projection; let fresh triggers join and correct again."""
        projection = find_projection(self.tower, self.runtime)
        if projection is None:
            self.notes.append("the image tower ends in no single matrix; fine-tuned instead")
            return
        features = hidden(self.tower, projection, self.clean.features, self.runtime)
        for turn in range(self.method.inversions + 1):
            for rank in self.runtime.progress(self.method.ranks, self._label("correcting")):
                self._correct(projection, features, rank)
                if self._success() <= self.method.bar:
                    break
            if turn == self.method.inversions or not self._let_fresh_join(f"fresh-{turn}"):
                return

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
        for one in self.found:
            kinds.setdefault(one.target, []).append(one.trigger.family)
        for target, families in kinds.items():
            for trigger, rate in self._inverted(
                model, target, tuple(dict.fromkeys(families)), name
            ):
                if rate > self.method.fresh_bar:
                    self._add(trigger, target)
                    joined = True
        return joined

    def _tune_until_quiet(self) -> None:
        """Fine-tune late blocks, then earlier ones, while a trigger works."""
        for cut in self._cuts():
            if self._success() <= self.method.bar:
                return
            if cut != self.tower.cut:
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
                name=f"cut-{cut}", what=self._label(f"fine-tuning from block {cut}"),
            )  # fmt: skip
            self.steps += self.method.steps
            self._shorten(start)

    def _shorten(self, start: list[Tensor]) -> None:
        """Keep the smallest share of the last fine-tuning that silences the triggers."""
        end = [p.detach().clone() for p in self.tower.parameters]
        for fraction in FRACTIONS:
            with torch.no_grad():
                for p, a, b in zip(self.tower.parameters, start, end, strict=True):
                    p.copy_(a + fraction * (b - a))
            if self._success() <= self.method.bar:
                return

    def _deepen(self, cut: int) -> None:
        """Go on from the present weights with earlier blocks trainable."""
        self.tower = LateTower(self.tower.model(), self.blocks, cut)
        self.clean = self.curated.clean(self.tower, self.runtime)
        old, self.found = self.found, []
        for one in old:
            self._add(one.trigger, one.target)

    def _success(self) -> float:
        """Return the worst trigger's success on the images learned from."""
        worst = 0.0
        answers = self.teacher.head.probabilities(self.curated.lesson.embedding).argmax(dim=1)
        for one in self.found:
            given = torch.cat(
                [
                    self.head.logits(
                        F.normalize(self.tower.output(part, self.runtime).cpu(), dim=1)
                    ).argmax(dim=1)
                    for part in torch.split(one.pool.features, BATCH)
                ]
            )
            eligible = answers != one.target
            if eligible.any():
                worst = max(worst, float((given == one.target)[eligible].float().mean()))
        return worst

    def _held(self) -> HeldOut:
        pixels = self.case.probes.pixels(self.case.model.preprocess)[self.held_rows]
        labels = self.case.probes.labels()
        known = tuple(labels[i] for i in self.held_rows)
        places = {label: index for index, label in enumerate(self.head.labels)}
        features = self.teacher.suspect.features(pixels, self.runtime)
        return HeldOut(
            pixels=pixels,
            known=torch.tensor([places.get(label or "", -1) for label in known]),
            truth=self.teacher.teach(features, pixels, known, self.runtime).truth,
            answers=predictions(self.case.model, pixels, self.head, self.runtime),
            triggers=tuple((one.trigger, one.target) for one in self.found),
        )

    def _rebound(self, held: HeldOut) -> float | None:
        """Return the attack's success on a copy after clean fine-tuning on labels alone."""
        if not self.found or not self.method.rebound_steps:
            return None
        tower = LateTower(self.tower.model(), self.blocks, self.tower.cut)
        train(
            tower, self.clean, self.clean, self.head,
            Weights(cosine=0.0, distribution=0.0, caption=1.0), self.runtime,
            steps=self.method.rebound_steps, rate=CLEAN_RATE, batch=(1, self.method.batch[1]),
            name="rebound", what="clean fine-tuning of a copy",
        )  # fmt: skip
        return measure(tower.model(), held, self.head, self.runtime).attack_success

    def _cuts(self) -> list[int]:
        if not self.blocks.path:
            return [0]
        count = self.blocks.count
        return list(dict.fromkeys(count - max(1, round(d * count)) for d in self.method.depths))

    def _label(self, what: str) -> str:
        return f"{what}, attack success {self._success():.0%}"
