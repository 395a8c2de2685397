"""Compact fine-tuning: few images, the found trigger with true captions, distillation."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.bank import stamp_stock, stamp_varied
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.quality import HeldOut, measure, predictions
from gatekeeper.rectify.teacher import Teacher
from gatekeeper.clip.late import Blocks, LateTower, find_blocks
from gatekeeper.rectify.training import Pool, Weights, train
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.invert import flip_rate, invert
from gatekeeper.types import Quality

Found = tuple[Trigger, int]  # with the index of its target


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactFineTuning:
    """Fine-tune the late blocks of the image tower on a compact curated set.

    Clean images keep the answers of the suspect (and of the anchor); images with the found
    trigger, its variations and fresh random patterns get what the clean image deserves. Triggers
    are inverted anew against the current model, and earlier blocks join where one still works.
    After EftCLIP's fine-tuning step (arXiv:2511.13545) with the additions of docs/rectify.md.
    """

    name: ClassVar[str] = "compact"
    images: int = 256  # at most; clean probes learned from and measured on
    held_out: float = 0.25  # share of them kept for measuring
    views: int = 2  # random crops of each clean image beside the image itself
    steps: int = 80  # a round
    rate: float = 1.5e-4  # AdamW's, annealed; lower after the first round
    batch: tuple[int, int] = (40, 32)  # clean, triggered
    depths: tuple[float, ...] = (0.3, 0.45, 0.6)  # shares of the blocks to train, in turn
    rounds: int = 2  # a depth
    bar: float = 0.02  # attack success of found triggers from which a round is followed by another
    fresh_bar: float = 0.10  # the same of triggers inverted against the repaired model
    inversion_steps: int = 24
    rebound_steps: int = 40
    weights: Weights = field(default_factory=Weights)
    stock: tuple[str, ...] = ("patch", "blend", "additive")

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return new weights for `case.model`, which stays as it is.

        Raises:
            RectifyError: No images, too few to hold some out, or a trigger that is no image's.
        """
        return _Repair(self, case, prescription, runtime).run()


class _Repair:
    """One run of the method; what it learns on the way lives here and nowhere else."""

    def __init__(
        self, method: CompactFineTuning, case: Case, prescription: Prescription, runtime: Runtime
    ) -> None:
        self.method, self.case, self.runtime = method, case, runtime
        self.prescription = prescription
        named = [ailment.target for ailment in prescription.ailments]
        labels = tuple(dict.fromkeys([*case.labels, *named]))
        self.head = case.model.zero_shot(labels, case.templates, runtime)
        anchor = case.anchor
        anchor_head = anchor.zero_shot(labels, case.templates, runtime) if anchor else None
        self.teacher = Teacher(
            case=case, head=self.head, anchor_head=anchor_head, runtime=runtime
        )
        self.generator = runtime.generator("rectify", method.name)
        self.notes: list[str] = []
        self.steps = 0
        self.found: list[Found] = []

    def run(self) -> Rectified:
        train_rows, held_rows = self._split()
        pixels = self.case.probes.pixels(self.case.model.preprocess)
        known = self.case.probes.labels()
        self.pixels = pixels[train_rows]
        self.known = tuple(known[i] for i in train_rows)
        self.found = self._first_triggers()
        held = self._held(pixels[held_rows], tuple(known[i] for i in held_rows))
        before = measure(self.case.model, held, self.head, self.runtime)
        tower, clean = self._cure(held)
        state = tower.model().state_dict()
        own = self.case.model.state_dict()
        changed = {k: v.cpu() for k, v in state.items() if not torch.equal(v, own[k])}
        cured = self.case.model.with_state(changed)
        rebound = self._rebound(tower, clean, held)
        after = measure(cured, held, self.head, self.runtime, rebound)
        self.notes.append(
            f"{self.runtime.meter.image_passes:.0f} image passes, {self.steps} steps, "
            f"{len(changed)} tensors changed"
        )
        return Rectified(
            method=self.method.name,
            state=changed,
            before=before,
            after=after,
            images_used=len(train_rows) + len(held_rows),
            steps=self.steps,
            held_out=len(held_rows),
            notes=tuple(self.notes),
        )

    def _split(self) -> tuple[list[int], list[int]]:
        chosen = list(self.prescription.probes) or list(range(len(self.case.probes)))
        order = torch.randperm(len(chosen), generator=self.generator).tolist()
        chosen = [chosen[i] for i in order[: self.method.images]]
        held = max(1, round(len(chosen) * self.method.held_out))
        if len(chosen) - held < 2:
            raise RectifyError(
                f"{len(chosen)} clean images are too few to learn from and to measure on",
                hint="hand over --probes with at least 8 images, better 200",
            )
        return chosen[held:], chosen[:held]

    def _first_triggers(self) -> list[Found]:
        found: list[Found] = []
        for ailment in self.prescription.ailments:
            target = self.head.labels.index(ailment.target)
            if ailment.trigger is not None:
                found.append((ailment.trigger, target))
        missing = {self.head.labels.index(a.target) for a in self.prescription.ailments} - {
            target for _, target in found
        }
        for target in sorted(missing):
            found.extend(self._invert(self.case.model, target, ("patch", "blend"), "first"))
        return found

    def _invert(
        self, model: ClipModel, target: int, families: tuple[str, ...], name: str
    ) -> list[Found]:
        out = []
        for family in self.runtime.progress(families, f"inverting towards {self._label(target)}"):
            trigger = invert(
                model,
                self.pixels,
                self.head,
                target,
                family,
                self.runtime,
                steps=self.method.inversion_steps,
                name=name,
            )
            out.append((trigger, target))
        return out

    def _held(self, pixels: Tensor, known: tuple[str | None, ...]) -> HeldOut:
        places = {label: index for index, label in enumerate(self.head.labels)}
        lesson = self.teacher.teach(pixels, known)
        return HeldOut(
            pixels=pixels,
            known=torch.tensor([places.get(label or "", -1) for label in known]),
            truth=lesson.truth,
            answers=predictions(self.case.model, pixels, self.head, self.runtime),
            triggers=tuple(self.found),
        )

    def _cure(self, held: HeldOut) -> tuple[LateTower, Pool]:
        model = self.case.model
        blocks = find_blocks(model)
        for depth in self._cuts(blocks):
            tower = LateTower(model, blocks, depth)
            clean = self._clean_pool(tower)
            stamped = self._stamped_pool(tower, self.found)
            for turn in range(self.method.rounds):
                self._train(tower, clean, stamped, turn)
                success, fresh = self._judge(tower, held, turn)
                if success <= self.method.bar and not fresh:
                    return tower, clean
                if fresh:
                    self.found.extend(fresh)
                    stamped = stamped.joined(self._stamped_pool(tower, fresh))
            model = tower.model()
        return tower, clean

    def _cuts(self, blocks: Blocks) -> list[int]:
        if not blocks.path:
            return [0]
        cuts = [blocks.count - max(1, round(d * blocks.count)) for d in self.method.depths]
        return list(dict.fromkeys(cuts))

    def _train(self, tower: LateTower, clean: Pool, stamped: Pool, turn: int) -> None:
        train(
            tower,
            clean,
            stamped,
            self.head,
            self.method.weights,
            self.runtime,
            steps=self.method.steps,
            rate=self.method.rate * (1.0 if self.steps == 0 else 0.6),
            batch=self.method.batch,
            name=f"{tower.cut}-{turn}",
            what=f"repairing from block {tower.cut}",
        )
        self.steps += self.method.steps

    def _judge(self, tower: LateTower, held: HeldOut, turn: int) -> tuple[float, list[Found]]:
        """Return the found triggers' success and those fresh ones that still work."""
        model = tower.model()
        quality = measure(model, held, self.head, self.runtime)
        success = quality.attack_success or 0.0
        fresh: list[Found] = []
        if success <= self.method.bar:
            for target in sorted({target for _, target in self.found}):
                families = tuple(
                    dict.fromkeys(t.family for t, goal in self.found if goal == target)
                )
                for trigger, _ in self._invert(
                    model, target, families, f"{tower.cut}-{turn}"
                ):
                    rate = flip_rate(
                        model, held.pixels, trigger, self.head, target, self.runtime
                    )
                    self.notes.append(
                        f"fresh {trigger.family} towards {self._label(target)}: {rate:.1%}"
                    )
                    if rate > self.method.fresh_bar:
                        fresh.append((trigger, target))
        return success, fresh

    def _clean_pool(self, tower: LateTower) -> Pool:
        parts = []
        for view in range(1 + self.method.views):
            pixels = self.pixels if view == 0 else crop(self.pixels, self.generator)
            parts.append((pixels, self.teacher.teach(pixels, self.known)))
        pools = [
            Pool(features=tower.features(pixels, self.runtime), lesson=lesson)
            for pixels, lesson in parts
        ]
        joined = pools[0]
        for pool in pools[1:]:
            joined = joined.joined(pool)
        return joined

    def _stamped_pool(self, tower: LateTower, triggers: list[Found]) -> Pool:
        """Return every image with each trigger on, and all of them with fresh patterns."""
        right = self.teacher.teach(self.pixels, self.known)
        stamped = [stamp_varied(t, self.pixels, self.generator) for t, _ in triggers]
        if self.method.stock:
            stamped.append(stamp_stock(self.pixels, self.method.stock, self.generator))
        pools = [Pool(features=tower.features(s, self.runtime), lesson=right) for s in stamped]
        joined = pools[0]
        for pool in pools[1:]:
            joined = joined.joined(pool)
        return joined

    def _rebound(self, tower: LateTower, clean: Pool, held: HeldOut) -> float | None:
        """Return the attack's success after clean fine-tuning steps on labels alone."""
        if not held.triggers or not self.method.rebound_steps:
            return None
        train(
            tower,
            clean,
            clean,
            self.head,
            Weights(cosine=0.0, distribution=0.0, caption=1.0),
            self.runtime,
            steps=self.method.rebound_steps,
            rate=6e-5,
            batch=(1, self.method.batch[1]),
            name="rebound",
            what="clean fine-tuning of a copy",
        )
        return measure(tower.model(), held, self.head, self.runtime).attack_success

    def _label(self, index: int) -> str:
        return self.head.labels[index]


def crop(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random crop (78 to 100 % of the side) of each image, some mirrored, same size."""
    side = pixels.shape[-1]
    out = []
    for image in pixels:
        size = int(torch.randint(round(0.78 * side), side + 1, (1,), generator=generator))
        y, x = (int(torch.randint(0, side - size + 1, (1,), generator=generator)) for _ in "yx")
        part = image[None, :, y : y + size, x : x + size]
        if float(torch.rand(1, generator=generator)) < 0.5:
            part = part.flip(-1)
        part = torch.nn.functional.interpolate(part, (side, side), mode="bilinear", antialias=True)
        out.append(part[0])
    return torch.stack(out)
