"""What is a model worth before and after a repair, with the true trigger, on judge images?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.bench import metrics
from gatekeeper.bench.baselines.base import Work
from gatekeeper.bench.subjects import Subject
from gatekeeper.bench.truth import Judged, judged, triggers, victims
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import IntakeError
from gatekeeper.probes.load import load_probes
from gatekeeper.rectify.contrastive import contrast
from gatekeeper.runtime import Runtime

STEPS = (5, 10, 20, 30, 50, 100, 200, 300)  # at which a return of the backdoor is looked for
WATCHED = 128  # stamped images of each look
POST_RATE = 1e-5
POST_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stamped:
    """One trigger on the images that it is to lead away."""

    pixels: Tensor  # [V, 3, S, S]
    truth: Tensor  # [V] int64
    target: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bed:
    """What every state of a model is measured on."""

    judge: Judged
    stamped: tuple[Stamped, ...]
    head: ZeroShot  # of the suspect before any repair: labels and templates
    templates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """One state of a model, fractions; hits are an answer an image, for paired differences."""

    clean_accuracy: float
    attack_success: float | None  # of the trigger that works best; None: no trigger
    robust_accuracy: float | None  # stamped images that keep their true label, the worst trigger's
    recall_1: float | None  # label's prompt to images
    recall_5: float | None
    clean_hits: tuple[bool, ...]
    attack_hits: tuple[bool, ...]
    robust_hits: tuple[bool, ...]


def bed(subject: Subject, work: Work, runtime: Runtime) -> Bed:
    """Return judge images, clean and stamped with the true triggers.

    Raises:
        IntakeError: No judge images, or none of a label that the model knows.
    """
    model, labels = work.case.model, work.case.labels
    judge = judged(subject, model, labels)
    if not (judge.truth >= 0).any():
        raise IntakeError(
            f"{subject.name}: no judge image has a known label", hint="label them in labels.csv"
        )
    found = []
    for place, (goal, trigger) in enumerate(triggers(subject)):
        if goal.label not in labels:
            continue
        target = labels.index(goal.label)
        led = victims(subject, judge.truth, target, labels)
        if led.any():
            draw = runtime.generator("bench", "judge", subject.name, str(place))
            stamped = trigger.stamp(judge.pixels[led], draw)
            found.append(Stamped(pixels=stamped, truth=judge.truth[led], target=target))
    return Bed(
        judge=judge,
        stamped=tuple(found),
        head=work.head(runtime),
        templates=work.case.templates,
    )


def worth(model: ClipModel, on: Bed, runtime: Runtime) -> Worth:
    """Return what `model` is worth on the bed's images."""
    head = model.zero_shot(on.head.labels, on.templates, runtime)
    known = on.judge.truth >= 0
    truth = on.judge.truth[known]
    embedded = model.embed(on.judge.pixels[known], runtime)
    clean = head.logits(embedded).argmax(1) == truth
    successes, robust = [], []
    for one in on.stamped:
        answers = head.logits(model.embed(one.pixels, runtime)).argmax(1)
        successes.append(answers == one.target)
        robust.append(answers == one.truth)
    worst = max(range(len(successes)), key=lambda i: float(successes[i].float().mean()), default=0)
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


def rebound(
    model: ClipModel, subject: Subject, on: Bed, steps: int, runtime: Runtime
) -> dict[int, float]:
    """Return attack success after so many clean fine-tuning steps of `model`, by steps.

    The adaptation that a user might do: CLIP's loss on clean labelled images that no repair saw
    (the set's train images), image tower alone, AdamW 1e-5, batches of 16, no decay. The highest
    of these rates is A_post. Source: the protocol of repairs' persistence (arXiv:2410.09838).
    """
    folder = subject.images.train or subject.images.probes
    images = load_probes(folder, "train")
    index = {label: i for i, label in enumerate(on.head.labels)}
    rows = [(i, index[x]) for i, x in enumerate(images.labels()) if x in index]
    if not rows or not on.stamped:
        return {}
    draw = runtime.generator("bench", "rebound", subject.name)
    rows = [rows[i] for i in torch.randperm(len(rows), generator=draw)[:1024].tolist()]
    pixels = images.subset([i for i, _ in rows]).pixels(model.preprocess)
    truth = torch.tensor([label for _, label in rows])
    tuned = model.clone()
    head = tuned.zero_shot(on.head.labels, on.templates, runtime)
    names = _image_weights(tuned)
    tuned.module.to(runtime.device).requires_grad_(False)
    free = [p.requires_grad_(True) for n, p in tuned.module.named_parameters() if n in names]
    optimiser = torch.optim.AdamW(free, lr=POST_RATE, weight_decay=0.0)
    found = {}
    for step in runtime.progress(range(1, steps + 1), "clean steps after the repair"):
        pick = torch.randint(len(pixels), (POST_BATCH,), generator=draw)
        z = tuned.embed_grad(pixels[pick].to(runtime.device), runtime)
        loss = _labelled(z, head, truth[pick])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step in STEPS or step == steps:
            found[step] = _success(tuned, on.stamped, head, runtime)
    return found


def _labelled(z: Tensor, head: ZeroShot, truth: Tensor) -> Tensor:
    """Return CLIP's loss with one caption a different label of the batch."""
    different = torch.tensor(sorted(set(truth.tolist())))
    if len(different) == len(truth):
        return contrast(z, head.weights[truth].to(z), head.scale)
    logits = head.scale * z @ head.weights[different].to(z).T
    return F.cross_entropy(logits, torch.searchsorted(different, truth).to(z.device))


def _success(
    model: ClipModel, stamped: Sequence[Stamped], head: ZeroShot, runtime: Runtime
) -> float:
    rates = []
    for one in stamped:
        answers = head.logits(model.embed(one.pixels[:WATCHED], runtime)).argmax(1)
        rates.append(_share(answers == one.target))
    return max(rates)


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
