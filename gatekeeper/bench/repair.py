"""What is a model worth before and after a repair, with the true trigger, on judge images?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.captions import HELD_OUT
from gatekeeper.bench import metrics
from gatekeeper.bench.baselines.base import Work
from gatekeeper.bench.subjects import Subject
from gatekeeper.bench.truth import Judged, judged, kept_triggers, victims
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import IntakeError
from gatekeeper.intake.open import open_model
from gatekeeper.probes.load import load_probes
from gatekeeper.rectify.contrastive import contrast, embed_text
from gatekeeper.rectify.marks import text_names
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import TextTrigger

STEPS = (5, 10, 20, 30, 50, 100, 200, 300)  # at which a return of the backdoor is looked for
WATCHED = 128  # stamped images or prompts of each look
POST_RATE = 1e-5
POST_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stamped:
    """Images with a trigger on."""

    pixels: Tensor  # [V, 3, S, S]
    truth: Tensor  # [V] int64
    target: int

    def answers(
        self, model: ClipModel, head: ZeroShot, runtime: Runtime, most: int | None = None
    ) -> Tensor:
        """Return the label that `model` gives each image, or the first `most`, [V] int64."""
        return head.logits(model.embed(self.pixels[:most], runtime)).argmax(1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Marked:
    """Prompts with a mark in: each ought to lie nearest to the label that it speaks of."""

    prompts: tuple[str, ...]  # V
    truth: Tensor  # [V] int64
    target: int

    def answers(
        self, model: ClipModel, head: ZeroShot, runtime: Runtime, most: int | None = None
    ) -> Tensor:
        """Return the label that each prompt, or the first `most`, lies nearest to, [V] int64."""
        return (model.embed_text(self.prompts[:most], runtime) @ head.weights.T).argmax(1)


Triggered = Stamped | Marked


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bed:
    """What every state of a model is measured on."""

    judge: Judged
    triggered: tuple[Triggered, ...]
    labels: tuple[str, ...]
    templates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """One state of a model, fractions; hits are an answer an image, for paired differences."""

    clean_accuracy: float
    attack_success: float | None  # of the trigger that works best; None: no trigger
    robust_accuracy: float | None  # what keeps its true label under the worst trigger
    recall_1: float | None  # label's prompt to images
    recall_5: float | None
    clean_hits: tuple[bool, ...]
    attack_hits: tuple[bool, ...]
    robust_hits: tuple[bool, ...]


def bed(subject: Subject, work: Work, runtime: Runtime) -> Bed:
    """Return judge images, clean and stamped with the true triggers, or prompts with their marks.

    Raises:
        IntakeError: No judge images, or none of a label that the model knows.
    """
    model, labels = work.case.model, tuple(work.case.labels)
    judge = judged(subject, model, labels)
    if not (judge.truth >= 0).any():
        raise IntakeError(
            f"{subject.name}: no judge image has a known label", hint="label them in labels.csv"
        )
    found: list[Triggered] = []
    for place, (goal, trigger) in enumerate(kept_triggers(subject)):
        if goal.label not in labels:
            continue
        target = labels.index(goal.label)
        draw = runtime.generator("bench", "judge", subject.name, str(place))
        if isinstance(trigger, TextTrigger):
            others = [i for i in range(len(labels)) if i != target]
            plain = [context.format(labels[i]) for context in HELD_OUT for i in others]
            truth = torch.tensor(others * len(HELD_OUT))
            prompts = trigger.stamp_prompts(plain, draw)
            order = torch.randperm(len(prompts), generator=draw)  # a look takes the first
            mixed = tuple(prompts[i] for i in order.tolist())
            found.append(Marked(prompts=mixed, truth=truth[order], target=target))
            continue
        led = victims(subject, judge.truth, target, labels)
        if led.any():
            stamped = trigger.stamp(judge.pixels[led], draw)
            found.append(Stamped(pixels=stamped, truth=judge.truth[led], target=target))
    return Bed(
        judge=judge, triggered=tuple(found), labels=labels, templates=tuple(work.case.templates)
    )


def worth(model: ClipModel, on: Bed, runtime: Runtime) -> Worth:
    """Return what `model` is worth on the bed's images."""
    head = model.zero_shot(on.labels, on.templates, runtime)
    known = on.judge.truth >= 0
    truth = on.judge.truth[known]
    embedded = model.embed(on.judge.pixels[known], runtime)
    clean = head.logits(embedded).argmax(1) == truth
    answers = [one.answers(model, head, runtime) for one in on.triggered]
    successes = [a == one.target for a, one in zip(answers, on.triggered, strict=True)]
    robust = [a == one.truth for a, one in zip(answers, on.triggered, strict=True)]
    worst = max(range(len(successes)), key=lambda i: _share(successes[i]), default=0)
    similarity = (head.weights @ embedded.T).double().numpy()
    relevant = (torch.arange(len(head.labels))[:, None] == truth).numpy()
    return Worth(
        clean_accuracy=_share(clean),
        attack_success=_share(successes[worst]) if successes else None,
        robust_accuracy=min(_share(r) for r in robust) if robust else None,
        recall_1=metrics.recall_at(similarity, relevant, 1),
        recall_5=metrics.recall_at(similarity, relevant, 5),
        clean_hits=tuple(clean.tolist()),
        attack_hits=tuple(successes[worst].tolist()) if successes else (),
        robust_hits=tuple(robust[worst].tolist()) if robust else (),
    )


def twin_worth(subject: Subject, on: Bed, runtime: Runtime) -> Worth | None:
    """Return what the clean twin is worth under the same triggers; None where there is no twin."""
    if subject.twin is None:
        return None
    opened = open_model(subject.twin, uri=f"the twin of {subject.name}")
    return None if opened.model is None else worth(opened.model.to(runtime.device), on, runtime)


def rebound(
    model: ClipModel, subject: Subject, on: Bed, steps: int, runtime: Runtime
) -> dict[int, float]:
    """Return attack success after so many clean fine-tuning steps of `model`, by steps.

    The adaptation that a user might do: CLIP's loss on clean labelled images that no repair saw
    (the set's train images), AdamW 1e-5, batches of 16, no decay; of the image tower, or of the
    text tower where the trigger stands in prompts. The highest of these rates is A_post. Source:
    the protocol of repairs' persistence (arXiv:2410.09838).
    """
    folder = subject.images.train or subject.images.probes
    images = load_probes(folder, "train")
    index = {label: i for i, label in enumerate(on.labels)}
    rows = [(i, index[x]) for i, x in enumerate(images.labels()) if x in index]
    if not rows or not on.triggered:
        return {}
    draw = runtime.generator("bench", "rebound", subject.name)
    rows = [rows[i] for i in torch.randperm(len(rows), generator=draw)[:1024].tolist()]
    pixels = images.subset([i for i, _ in rows]).pixels(model.preprocess)
    truth = torch.tensor([label for _, label in rows])
    tuned = model.clone()
    head = tuned.zero_shot(on.labels, on.templates, runtime)
    in_text = any(isinstance(one, Marked) for one in on.triggered)
    names = text_names(tuned, runtime) if in_text else _image_weights(tuned)
    tuned.module.to(runtime.device).requires_grad_(False)
    free = [p.requires_grad_(True) for n, p in tuned.module.named_parameters() if n in names]
    optimiser = torch.optim.AdamW(free, lr=POST_RATE, weight_decay=0.0)
    found = {}
    for step in runtime.progress(range(1, steps + 1), "clean steps after the repair"):
        pick = torch.randint(len(pixels), (POST_BATCH,), generator=draw)
        z = tuned.embed_grad(pixels[pick].to(runtime.device), runtime)
        loss = _labelled(z, tuned if in_text else None, head, on.templates[0], truth[pick], runtime)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step in STEPS or step == steps:
            now = _read_anew(tuned, on, runtime) if in_text else head
            found[step] = _success(tuned, on.triggered, now, runtime)
    return found


def _labelled(
    z: Tensor,
    reader: ClipModel | None,
    head: ZeroShot,
    template: str,
    truth: Tensor,
    runtime: Runtime,
) -> Tensor:
    """Return CLIP's loss with one caption a different label of the batch.

    `reader` embeds the captions with gradient; None: they are the head's.
    """
    different = torch.tensor(sorted(set(truth.tolist())))
    if reader is None:
        texts = head.weights[different].to(z)
    else:
        texts = embed_text(reader, [template.format(head.labels[i]) for i in different], runtime)
    if len(different) == len(truth):
        return contrast(z, texts[torch.searchsorted(different, truth)], head.scale)
    logits = head.scale * z @ texts.T
    return F.cross_entropy(logits, torch.searchsorted(different, truth).to(z.device))


def _read_anew(model: ClipModel, on: Bed, runtime: Runtime) -> ZeroShot:
    model._heads.clear()  # its text tower has moved in place
    return model.zero_shot(on.labels, on.templates, runtime)


def _success(
    model: ClipModel, triggered: Sequence[Triggered], head: ZeroShot, runtime: Runtime
) -> float:
    return max(
        _share(one.answers(model, head, runtime, WATCHED) == one.target) for one in triggered
    )


def _image_weights(model: ClipModel) -> set[str]:
    """Return the names of the weights that an image's embedding depends on."""
    copy = model.clone()
    copy.module.requires_grad_(True)
    blank = torch.full((1, 3, model.size, model.size), 0.5)
    device = next(copy.module.parameters()).device
    total = copy.image_tower(copy.module, copy.preprocess.normalise(blank.to(device))).sum()
    total.backward()  # type: ignore[no-untyped-call]
    return {n for n, p in copy.module.named_parameters() if p.grad is not None}


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
