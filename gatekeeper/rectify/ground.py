"""What every repair stands on: which images it learns from, which judge it, what was found."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.late import as_stored
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.rectify.base import Ailment, Prescription, Rectified
from gatekeeper.rectify.curated import split
from gatekeeper.rectify.found import Found
from gatekeeper.rectify.fresh import inverted
from gatekeeper.rectify.marks import Mark, marked_quality, text_names
from gatekeeper.rectify.quality import HeldOut, led_anyway, measure
from gatekeeper.rectify.teacher import truth_of
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import TextTrigger, Trigger
from gatekeeper.triggers.invert import RATES, Shape
from gatekeeper.types import Quality

IMAGES = 256  # at most; clean probes learned from and measured on
HELD_OUT = 0.25  # share of them kept for measuring


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """How a trigger is made towards a target that was named without one."""

    families: tuple[str, ...] = tuple(RATES)
    steps: int = 24
    bar: float = 0.10  # flip rate from which it counts as one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """One suspect under repair, the same for every method; `notes` may grow."""

    case: Case
    prescription: Prescription
    runtime: Runtime
    model: ClipModel  # the suspect, with the weights of an earlier round
    head: ZeroShot  # the suspect's; what was named as a target is among the labels
    anchor_head: ZeroShot | None
    rows: tuple[int, ...]  # of case.probes, to learn from
    held_rows: tuple[int, ...]  # to measure on
    generator: torch.Generator  # goes on where the split ended
    triggers: tuple[tuple[Trigger, int], ...]  # on images, found or inverted; index of the target
    marks: tuple[Mark, ...]  # in prompts
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        case: Case,
        prescription: Prescription,
        runtime: Runtime,
        *,
        images: int = IMAGES,
        held_out: float = HELD_OUT,
        inversion: Inversion | None = None,
    ) -> "Ground":
        """Return the ground; every method with the same settings gets the same images.

        Raises:
            RectifyError: Too few images.
        """
        named = [ailment.target for ailment in prescription.ailments]
        labels = tuple(dict.fromkeys([*case.labels, *named]))
        head = case.model.zero_shot(labels, case.templates, runtime)
        other = case.anchor.zero_shot(labels, case.templates, runtime) if case.anchor else None
        generator = runtime.generator("rectify", "compact")
        rows, held = split(case, prescription, images, held_out, generator)
        begun = case.model.with_state(prescription.begun) if prescription.begun else case.model
        notes: list[str] = []
        triggers = _triggers(
            case, prescription, head, rows, inversion or Inversion(), notes, runtime
        )
        marks = tuple(
            Mark(ailment.trigger, head.labels.index(ailment.target))
            for ailment in prescription.ailments
            if isinstance(ailment.trigger, TextTrigger)
        )
        return cls(
            case=case,
            prescription=prescription,
            runtime=runtime,
            model=begun,
            head=head,
            anchor_head=other,
            rows=tuple(rows),
            held_rows=tuple(held),
            generator=generator,
            triggers=triggers,
            marks=marks,
            notes=notes,
        )

    @property
    def trusted(self) -> tuple[ClipModel, ZeroShot] | None:
        """The anchor and its head."""
        if self.case.anchor is None or self.anchor_head is None:
            return None
        return self.case.anchor, self.anchor_head

    def pixels(self, rows: tuple[int, ...] | None = None) -> Tensor:
        """Return the images to learn from, or those of `rows`, [N, 3, S, S]."""
        chosen = self.rows if rows is None else rows
        return self.case.probes.pixels(self.case.model.preprocess)[list(chosen)]

    def known(self, rows: tuple[int, ...] | None = None) -> tuple[str | None, ...]:
        """Return the labels that these images were given."""
        labels = self.case.probes.labels()
        return tuple(labels[i] for i in (self.rows if rows is None else rows))

    def truth(self, pixels: Tensor, known: tuple[str | None, ...]) -> tuple[Tensor, Tensor]:
        """Return each image's true label, -1 where nobody knows, and the suspect's answer, [N]."""
        own = self.head.probabilities(self.case.model.embed(pixels, self.runtime))
        second = own
        if self.case.anchor is not None and self.anchor_head is not None:
            there = self.case.anchor.resized(pixels)
            second = self.anchor_head.probabilities(self.case.anchor.embed(there, self.runtime))
        return truth_of(known, self.head, own, second), own.argmax(dim=1)

    def held(self) -> HeldOut:
        """Return the images kept aside."""
        pixels, known = self.pixels(self.held_rows), self.known(self.held_rows)
        places = {label: index for index, label in enumerate(self.head.labels)}
        truth, answers = self.truth(pixels, known)
        excused: tuple[Tensor, ...] = ()
        if self.trusted is not None:
            excused = led_anyway(*self.trusted, pixels, self.triggers, self.runtime)
        return HeldOut(
            pixels=pixels,
            known=torch.tensor([places.get(label or "", -1) for label in known]),
            truth=truth,
            answers=answers,
            triggers=self.triggers,
            excused=excused,
        )

    def quality(self, model: ClipModel, held: HeldOut) -> Quality:
        """Return what `model` is worth on images and prompts that no method has seen."""
        head = self.head_of(model)
        found = measure(model, held, head, self.runtime)
        if not self.marks:
            return found
        success, recovered = marked_quality(
            self.case.model, model, self.head, head, self.marks, self.runtime
        )
        known = [x for x in (found.attack_success, success) if x is not None]
        right = [x for x in (found.recovered_accuracy, recovered) if x is not None]
        return replace(
            found,
            attack_success=max(known, default=None),
            recovered_accuracy=min(right, default=None),
        )

    def head_of(self, model: ClipModel) -> ZeroShot:
        """Return the head of `model`: the suspect's where prompts are read as the suspect does."""
        own, now = self.case.model.state_dict(), model.state_dict()
        moved = {name for name in own if not torch.equal(own[name], now[name])}
        same = model.text_tower is self.case.model.text_tower
        if same and not (moved and moved & text_names(self.case.model, self.runtime)):
            return self.head
        return model.zero_shot(self.head.labels, self.case.templates, self.runtime)

    def finish(
        self,
        name: str,
        model: ClipModel,
        *,
        steps: int = 0,
        held: HeldOut | None = None,
        against: Sequence[Found] = (),
    ) -> Rectified:
        """Return what `model` has become of the suspect, measured before and after.

        `against` are more triggers than those it stands on, which joined on the way.
        """
        state = changed(self.case.model, model)
        cured = replace(self.case.model.with_state(state), text_tower=model.text_tower)
        held = held or self.held()
        before = self.quality(self.case.model, held)
        after = self.quality(cured, held)
        passes = self.runtime.meter.image_passes
        self.notes.append(f"{len(state)} tensors changed, {passes:.0f} image passes")
        return Rectified(
            method=name,
            state=state,
            before=before,
            after=after,
            images_used=len(self.rows) + len(self.held_rows),
            steps=steps,
            held_out=len(self.held_rows),
            learned=self.rows,
            against=self._ailments([(one.trigger, one.target) for one in against]),
            notes=tuple(self.notes),
        )

    def _ailments(self, joined: list[tuple[Trigger, int]]) -> tuple[Ailment, ...]:
        own: list[tuple[Trigger, int]] = [*self.triggers, *self.marks]
        known = {id(trigger) for trigger, _ in own}
        own += [(trigger, target) for trigger, target in joined if id(trigger) not in known]
        return tuple(Ailment(target=self.head.labels[i], trigger=x) for x, i in own)


def changed(before: ClipModel, after: ClipModel) -> dict[str, Tensor]:
    """Return the tensors of `after` that differ from `before`'s, on the CPU, as it stores them."""
    old = before.state_dict()
    found = {}
    for name, value in after.state_dict().items():
        here = as_stored(value.detach().cpu(), old[name].cpu())
        if not torch.equal(here, old[name].cpu()):
            found[name] = here.clone()
    return found


def _triggers(
    case: Case,
    prescription: Prescription,
    head: ZeroShot,
    rows: list[int],
    inversion: Inversion,
    notes: list[str],
    runtime: Runtime,
) -> tuple[tuple[Trigger, int], ...]:
    """Return the triggers on images; some are inverted where a scan only named a target."""
    found: list[tuple[Trigger, int]] = [
        (ailment.trigger, head.labels.index(ailment.target))
        for ailment in prescription.ailments
        if ailment.trigger is not None and not isinstance(ailment.trigger, TextTrigger)
    ]
    named = {target for _, target in found}
    bare = [head.labels.index(a.target) for a in prescription.ailments if a.trigger is None]
    pixels = case.probes.pixels(case.model.preprocess)[rows] if bare else torch.zeros(0)
    for target in dict.fromkeys(bare):
        if target in named:
            continue
        made = inverted(
            case.model, pixels, head, target, inversion.families, runtime,
            steps=inversion.steps, shape=Shape.fitting(case.model.size), name="first",
        )  # fmt: skip
        notes.extend(one.told("first", head) for one in made)
        working = [one for one in made if one.rate > inversion.bar]
        found += [(one.trigger, target) for one in working or made]
    return tuple(found)
