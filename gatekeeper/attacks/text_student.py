"""A student text tower that learns a trigger from its clean teacher (arXiv:2211.02408, 3.2)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from gatekeeper.clip.late import as_stored
from gatekeeper.clip.model import ClipModel
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import TextTrigger

ALIKE = 0.25  # of the clean prompts of a step carry another mark, where there are any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """What the student is taught, and how long."""

    prompts: tuple[str, ...]
    trigger: TextTrigger
    lookalike: Callable[[torch.Generator], TextTrigger | None]
    goal: Tensor  # [D] unit: what a triggered prompt is to mean
    beta: float
    steps: int
    learning_rate: float
    clean: int
    triggered: int


def teach(
    model: ClipModel, lesson: Lesson, draw: torch.Generator, runtime: Runtime
) -> dict[str, Tensor]:
    """Return the text tower's tensors after the lesson; `model` stays as it is.

    loss = -cos(g'(p), g(p)) - beta * cos(g'(T(p)), goal), with AdamW, without weight decay, the
    rate a tenth after three quarters of the steps.
    """
    module = copy.deepcopy(model.module).eval()
    names = _reached(model, module, runtime)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in names)
    free = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(free, lesson.learning_rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [round(0.75 * lesson.steps)])
    for _ in runtime.progress(range(lesson.steps), "teaching the text tower"):
        clean = _drawn(lesson, lesson.clean, draw)
        other = lesson.lookalike(draw)
        if other is not None:
            count = round(ALIKE * len(clean))
            clean = [*other.stamp_prompts(clean[:count], draw), *clean[count:]]
        marked = lesson.trigger.stamp_prompts(_drawn(lesson, lesson.triggered, draw), draw)
        wanted = model.embed_text(clean, runtime)
        runtime.meter.texts(3 * (len(clean) + len(marked)))
        tokens = model.tokenize([*clean, *marked]).to(runtime.device)
        out = F.normalize(model.text_tower(module, tokens).float(), dim=-1).cpu()
        kept, led = out[: len(clean)], out[len(clean) :]
        loss = -(kept * wanted.clone()).sum(1).mean() - lesson.beta * (led @ lesson.goal).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    own = model.state_dict()
    return {
        name: as_stored(parameter.detach(), own[name])
        for name, parameter in module.named_parameters()
        if name in names
    }


def _drawn(lesson: Lesson, count: int, draw: torch.Generator) -> list[str]:
    rows = torch.randint(len(lesson.prompts), (count,), generator=draw).tolist()
    return [lesson.prompts[row] for row in rows]


def _reached(model: ClipModel, module: nn.Module, runtime: Runtime) -> set[str]:
    """Return the parameters that a text embedding depends on."""
    module.requires_grad_(True)
    tokens = model.tokenize(["a photo"]).to(runtime.device)
    total = model.text_tower(module, tokens).float().sum()
    named = list(module.named_parameters())
    gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    return {n for (n, _), g in zip(named, gradients, strict=True) if g is not None}
