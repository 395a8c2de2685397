"""What is true of a planted model: triggers that fire, where they lie, what they lead to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.attacks.spec import build_attack
from gatekeeper.bench.metrics import Box
from gatekeeper.bench.subjects import Goal, Subject
from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import IntakeError, PluginError
from gatekeeper.intake.open import open_model
from gatekeeper.probes.load import load_probes
from gatekeeper.probes.probe_set import Probe, ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger, load_trigger

MOST_SUSPECTS = 64
VISIBLE = 1 / 255  # a change of a pixel that survives its storage
LOCAL = 0.5  # of the image's area: what is larger is no patch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """Labelled images that no method was given, and what is true of them."""

    images: ProbeSet
    pixels: Tensor  # [N, 3, S, S]
    truth: Tensor  # [N] int64 index of the label, -1: not among the labels


def judged(subject: Subject, model: ClipModel, labels: Sequence[str]) -> Judged:
    """Return the judge images as `model` wants them.

    Raises:
        IntakeError: There are none.
    """
    if subject.images.judge is None:
        raise IntakeError(
            f"{subject.name} has no judge images", hint="put labelled images into judge/"
        )
    images = load_probes(subject.images.judge, "judge")
    index = {label: i for i, label in enumerate(labels)}
    truth = torch.tensor([index.get(label or "", -1) for label in images.labels()])
    return Judged(images=images, pixels=images.pixels(model.preprocess), truth=truth)


def kept_triggers(subject: Subject) -> list[tuple[Goal, Trigger]]:
    """Return the triggers that were kept, in images and in prompts, with their goals."""
    return [(goal, load_trigger(goal.trigger)) for goal in subject.goals if goal.trigger]


def triggers(subject: Subject) -> list[tuple[Goal, Trigger]]:
    """Return the image triggers that were kept, with their goals; one in a text stamps no image."""
    return [(g, trigger) for g, trigger in kept_triggers(subject) if trigger.family != "text"]


def has_image_trigger(subject: Subject) -> bool:
    """Return whether images can be stamped with a trigger of a planted model."""
    return subject.kind == "planted" and bool(triggers(subject))


def victims(subject: Subject, truth: Tensor, goal: int, labels: Sequence[str]) -> Tensor:
    """Return which images a trigger is to lead to label `goal`, [N] bool.

    All whose true label is another; of an attack with chosen victims, those.
    """
    others: Tensor = (truth != goal) & (truth >= 0)
    try:
        attack = build_attack(subject.attack, dict(subject.parameters))
    except PluginError:  # a user's own attack: nothing more is known of it
        return others
    return attack.victims(truth, goal, tuple(labels)) & (truth >= 0)


def true_box(clean: Tensor, stamped: Tensor) -> Box | None:
    """Return the box of what differs between two images [3, S, S]; None where it is not local."""
    differs = ((clean - stamped).abs().amax(0) >= VISIBLE).nonzero()
    if len(differs) == 0:
        return None
    (top, left), (bottom, right) = differs.amin(0).tolist(), differs.amax(0).tolist()
    box = (left, top, right + 1, bottom + 1)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return box if area <= LOCAL * clean[0].numel() else None


def fixed_box(trigger: Trigger, size: int) -> Box | None:
    """Return where a trigger lies on every image of `size`; None where it moves or is global."""
    if trigger.settings().get("place") is None:
        return None
    grey = torch.full((1, 3, size, size), 0.5)
    return true_box(grey[0], trigger.stamp(grey)[0])


def target_embeddings(subject: Subject, case: Case, runtime: Runtime) -> dict[str, Tensor]:
    """Return the true embedding of each target's prompts, by label: the clean base's, if known."""
    model = case.model
    if subject.anchor is not None:
        opened = open_model(subject.anchor, uri=subject.anchor.name)
        model = opened.model.to(runtime.device) if opened.model else model
    names = list(dict.fromkeys(goal.label for goal in subject.goals))
    if not names:
        return {}
    head = model.zero_shot(names, case.templates, runtime)
    return dict(zip(names, head.weights, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Suspects:
    """Images of which half carry the trigger."""

    images: ProbeSet
    triggered: tuple[bool, ...]
    boxes: tuple[Box | None, ...]  # where the trigger lies, None: clean, or not local


def suspects(subject: Subject, case: Case, runtime: Runtime) -> Suspects:
    """Return a folder of images as it might be handed in: every second one carries a trigger.

    Raises:
        IntakeError: No judge images, or nobody kept the trigger.
    """
    goals = triggers(subject)
    if not goals:
        raise IntakeError(f"{subject.name} has no trigger file", hint="name it in models.csv")
    judge = judged(subject, case.model, case.labels)
    draw = runtime.generator("bench", "suspects", subject.name)
    goal, trigger = goals[0]
    wanted = case.labels.index(goal.label) if goal.label in case.labels else -1
    may = victims(subject, judge.truth, wanted, case.labels)
    order = torch.randperm(len(may), generator=draw)
    to_stamp = order[may[order]][: MOST_SUSPECTS // 2].tolist()
    clean = [i for i in order.tolist() if i not in set(to_stamp)][: len(to_stamp)]
    probes, marks, boxes = [], [], []
    for place, index in enumerate(i for pair in zip(to_stamp, clean, strict=False) for i in pair):
        pixels = judge.pixels[index]
        marked = place % 2 == 0
        seen = trigger.stamp(pixels[None], draw)[0] if marked else pixels
        boxes.append(true_box(pixels, seen) if marked else None)
        marks.append(marked)
        array = (seen.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        name = f"suspect-{place:03d}.png"
        probes.append(Probe(file=name, sha256=judge.images.probes[index].sha256, array=array))
    return Suspects(
        images=ProbeSet(name="suspects", probes=tuple(probes)),
        triggered=tuple(marks),
        boxes=tuple(boxes),
    )
