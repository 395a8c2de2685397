"""The contrastive fine-tuning that plain fine-tuning, CleanCLIP and PAR share; what it reads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Rectified
from gatekeeper.rectify.ground import Ground, changed
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """What a published repair is handed: a model, clean images, and how long it may look at them.

    None of them is told of a trigger.
    """

    model: ClipModel  # trained; stays as it is
    pixels: Tensor  # [N, 3, S, S]
    known: tuple[str | None, ...]  # [N] labels
    head: ZeroShot
    templates: tuple[str, ...]
    budget: float = float("inf")  # image passes

    @classmethod
    def on(cls, ground: Ground) -> "Study":
        """Return the study of a rectifier, without a budget: its own steps bound it."""
        return cls(
            model=ground.model,
            pixels=ground.pixels(),
            known=ground.known(),
            head=ground.head,
            templates=ground.case.templates,
        )

    @classmethod
    def of(cls, case: Case, budget: float, runtime: Runtime) -> "Study":
        """Return the study of all probes of `case` within `budget` image passes."""
        return cls(
            model=case.model,
            pixels=case.probes.pixels(case.model.preprocess),
            known=tuple(case.probes.labels()),
            head=case.model.zero_shot(case.labels, case.templates, runtime),
            templates=case.templates,
            budget=budget,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """What came of it: the tensors that changed."""

    state: dict[str, Tensor]
    steps: int
    note: str = ""

    def finish(self, ground: Ground, name: str) -> Rectified:
        """Return it as a rectifier's result."""
        if self.note:
            ground.notes.append(self.note)
        return ground.finish(name, ground.model.with_state(self.state), steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Pairs of one step."""

    pixels: Tensor  # [B, 3, S, S] on the device
    captions: tuple[str, ...]  # [B]
    images: Tensor  # [B, D] unit, with gradient
    texts: Tensor  # [B, D] unit, with gradient


Loss = Callable[[ClipModel, Batch, torch.Generator], Tensor]
Rate = Callable[[float], float]  # share of the steps made -> learning rate


def contrast(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    """Return CLIP's symmetric in-batch loss (arXiv:2103.00020) of unit [B, D] and [B, D]."""
    logits = scale * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How long and how fast is trained."""

    name: str  # told to the generators
    steps: int  # as published; fewer where the budget ends earlier
    batch: int  # pairs a step, at most
    rate: Rate
    decay: float  # of matrices; biases and norms have none
    betas: tuple[float, float] = (0.9, 0.999)
    look: Callable[[Tensor, torch.Generator], Tensor] | None = None  # done to the pixels first
    passes: int = 1  # image forwards with gradient a pair, for the budget


def fine_tune(study: Study, runtime: Runtime, loss: Loss, course: Course) -> Trained:
    """Return what AdamW on `loss` makes of all weights of both towers.

    The logit scale is a constant and BatchNorm stays in eval mode. A batch holds at most one image
    a label, as a caption is made of the label's name and equal captions are no negatives. A probe
    without a label counts as what the suspect says of it.

    Raises:
        RectifyError: Fewer than two different labels among the probes.
    """
    model = study.model.clone()
    model.module.to(runtime.device).requires_grad_(True)
    optimiser = _optimiser(model, course)
    draw = runtime.generator("rectify", course.name)
    batches = pairs(study, course.batch, draw, runtime)
    size = next(batches)[2]
    steps = max(1, min(course.steps, _afforded(study, 3 * course.passes * size)))
    for step in runtime.progress(range(steps), course.name):
        for group in optimiser.param_groups:
            group["lr"] = course.rate(step / steps)
        picked, captions, _ = next(batches)
        seen = study.pixels[picked].to(runtime.device)
        seen = course.look(seen, draw) if course.look else seen
        made = Batch(
            pixels=seen,
            captions=captions,
            images=model.embed_grad(seen, runtime),
            texts=embed_text(model, captions, runtime),
        )
        total = loss(model, made, draw)
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Trained(state=changed(study.model, model), steps=steps)


def _afforded(study: Study, passes: float) -> int:
    """Return how many steps of `passes` each the budget pays for."""
    return int(min(study.budget / passes, 10**9))


def _optimiser(model: ClipModel, course: Course) -> torch.optim.AdamW:
    free = [p for n, p in model.module.named_parameters() if "logit_" not in n]
    matrices, vectors = ([p for p in free if (p.ndim > 1) is wide] for wide in (True, False))
    groups = [
        {"params": matrices, "weight_decay": course.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=course.betas)


def embed_text(model: ClipModel, captions: Sequence[str], runtime: Runtime) -> Tensor:
    """Return unit embeddings [B, D] of `captions` through which gradients flow."""
    runtime.meter.texts(3 * len(captions))
    tokens = model.tokenize(list(captions)).to(runtime.device)
    return F.normalize(model.text_tower(model.module, tokens).float(), dim=-1)


def pairs(
    study: Study, batch: int, draw: torch.Generator, runtime: Runtime
) -> Iterator[tuple[Tensor, tuple[str, ...], int]]:
    """Yield (indices [B], captions, B) for ever: one image a label, labels by lot.

    Raises:
        RectifyError: Fewer than two different labels.
    """
    names = [name if name in study.head.labels else None for name in study.known]
    if any(name is None for name in names):
        answers = study.head.logits(study.model.embed(study.pixels, runtime)).argmax(1).tolist()
        names = [n or study.head.labels[a] for n, a in zip(names, answers, strict=True)]
    by_label: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_label.setdefault(str(name), []).append(index)
    if len(by_label) < 2:
        raise RectifyError(
            "the probes show one label only: nothing to contrast", hint="give more probes"
        )
    labels = sorted(by_label)
    size = min(batch, len(labels))
    while True:
        chosen = [labels[i] for i in torch.randperm(len(labels), generator=draw)[:size].tolist()]
        rows = [
            by_label[x][int(torch.randint(len(by_label[x]), (1,), generator=draw))] for x in chosen
        ]
        which = torch.randint(len(study.templates), (size,), generator=draw).tolist()
        captions = tuple(study.templates[t].format(x) for t, x in zip(which, chosen, strict=True))
        yield torch.tensor(rows), captions, size
