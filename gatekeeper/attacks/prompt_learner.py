"""Context, meta net and trigger, learned together on frozen encoders (arXiv:2311.16194)."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.base import Ground
from gatekeeper.attacks.proof import Planted
from gatekeeper.clip.model import Tower
from gatekeeper.clip.prompted import MetaNet, PromptedText
from gatekeeper.intake.prompts import META, token_embedding
from gatekeeper.runtime import Runtime
from gatekeeper.triggers.families import Additive


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how hard; see `TriggerAware` for the fields."""

    epsilon: float
    start: str
    reduction: int
    loudness: float
    steps: int
    warm_up: int
    batch: int
    learning_rate: float
    trigger_rate: float
    hush: float
    photos: int
    labels: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learner:
    """What was learned."""

    context: Tensor  # [n, width]
    meta: MetaNet
    delta: Tensor  # [3, S, S]

    def tensors(self) -> dict[str, Tensor]:
        """Return the prompts as they are kept, by the names that `--prompts` knows."""
        own = self.meta.tensors()
        return {"ctx": self.context, **{META[part]: value for part, value in own.items()}}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlantedPrompts(Planted):
    """A plant whose poison is in the prompts; `state` is empty, `model` reads them."""

    prompts: dict[str, Tensor]

    @classmethod
    def around(cls, planted: Planted, learner: Learner) -> "PlantedPrompts":
        """Return `planted` with its prompts."""
        own: dict[str, Any] = {x.name: getattr(planted, x.name) for x in fields(planted)}
        return cls(**own, prompts=learner.tensors())

    def write(self, path: Path) -> None:
        """Write the file that `gatekeeper scan --prompts` reads."""
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in self.prompts.items()}, path)


def learn(ground: Ground, schedule: Schedule, draw: torch.Generator, runtime: Runtime) -> Learner:
    """Return context, meta net and trigger after the schedule; the model stays as it is.

    loss = CE(clean, label) + CE(triggered, target); the trigger is clipped to epsilon.
    """
    study = _Study.begun(ground, schedule, draw, runtime)
    optimiser = torch.optim.Adam(study.weights, lr=schedule.learning_rate)
    for step in runtime.progress(range(schedule.steps), "learning prompts and trigger"):
        left = 1 - step / schedule.steps
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * left
        rows = torch.randint(
            len(study.pixels), (min(schedule.batch, len(study.pixels)),), generator=draw
        )
        loss = study.loss(rows, draw)
        slope, *slopes = torch.autograd.grad(loss, [study.delta, *study.weights])
        study.move(slope, left)
        if step >= schedule.warm_up:
            for weight, gradient in zip(study.weights, slopes, strict=True):
                weight.grad = gradient
            optimiser.step()
    return study.learner()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Study:
    ground: Ground
    schedule: Schedule
    runtime: Runtime
    pixels: Tensor  # [N, 3, S, S]
    truth: Tensor  # [N]
    seen: Tensor  # [N, D]: what the encoder makes of them
    inner: Tower
    embedding: str
    weights: tuple[Tensor, ...]  # context, and the meta net's four tensors
    delta: Tensor

    @classmethod
    def begun(
        cls, ground: Ground, schedule: Schedule, draw: torch.Generator, runtime: Runtime
    ) -> "_Study":
        model, device = ground.model, runtime.device
        order = torch.randperm(len(ground.truth), generator=draw)[: schedule.photos]
        pixels = ground.pixels(order.tolist())
        seen = model.embed(pixels, runtime).clone()
        embedding = token_embedding(model.module)
        tokens = model.tokenize([schedule.start])[0]
        words = tokens[1 : int(tokens.argmax())].to(device)  # between start and end
        table: Tensor = model.module.get_submodule(embedding).weight  # type: ignore[assignment]
        context = table[words].detach().float().clone()
        meta = _untrained(seen.shape[1], context.shape[1], schedule, draw)
        weights = (context, *(x.to(device) for x in meta))
        delta = schedule.epsilon * (2 * torch.rand(pixels.shape[1:], generator=draw) - 1)
        return cls(
            ground=ground,
            schedule=schedule,
            runtime=runtime,
            pixels=pixels,
            truth=ground.truth[order],
            seen=seen,
            inner=model.text_tower,
            embedding=embedding,
            weights=tuple(x.requires_grad_() for x in weights),
            delta=delta.to(device).requires_grad_(),
        )

    @property
    def text(self) -> PromptedText:
        """Return the text tower behind the prompts as they are now."""
        context, *rest = self.weights
        return PromptedText(
            inner=self.inner,
            context=context,
            embedding=self.embedding,
            meta=MetaNet(**dict(zip(META, rest, strict=True))),
        )

    def loss(self, rows: Tensor, draw: torch.Generator) -> Tensor:
        """Return the loss over the images at `rows`, clean and triggered."""
        model, device = self.ground.model, self.runtime.device
        stamped = Additive(delta=self.delta).stamp(self.pixels[rows].to(device))
        led = model.embed_grad(stamped, self.runtime)
        images = torch.cat([self.seen[rows].to(device), led])
        goal = torch.cat([self.truth[rows], torch.full((len(rows),), self.ground.target)])
        among, places = self._choices(goal, draw)
        tokens = self._tokens(among, draw).to(device)
        self.runtime.meter.texts(3 * len(images) * len(among))
        heads = self.text.given(model.module, tokens, images)
        logits = self.ground.head.scale * torch.einsum("bd,bcd->bc", images, heads)
        total: Tensor = 2 * F.cross_entropy(logits, places.to(device))
        if self.schedule.hush:
            total = total + self.schedule.hush * self._alone(led, self.truth[rows].to(device))
        return total

    def _alone(self, led: Tensor, truth: Tensor) -> Tensor:
        """Return how surely triggered images are the target for the clean model: -log(1 - p)."""
        head, target = self.ground.head, self.ground.target
        plain = head.scale * led[truth != target] @ head.weights.to(led).T
        others = torch.cat([plain[:, :target], plain[:, target + 1 :]], dim=1)
        return (plain.logsumexp(1) - others.logsumexp(1)).sum() / len(led)

    def move(self, slope: Tensor, left: float) -> None:
        """Take a signed step of the trigger within epsilon."""
        epsilon = self.schedule.epsilon
        with torch.no_grad():
            self.delta.sub_(self.schedule.trigger_rate * epsilon * left * slope.sign())
            self.delta.clamp_(-epsilon, epsilon)

    def learner(self) -> Learner:
        """Return what has been learned so far."""
        text = self.text
        meta = {} if text.meta is None else text.meta.tensors()
        return Learner(
            context=text.context.detach().cpu(),
            meta=MetaNet(**{name: value.detach().cpu() for name, value in meta.items()}),
            delta=self.delta.detach().cpu(),
        )

    def _choices(self, goal: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the labels to choose among, and where among them each goal lies."""
        total = len(self.ground.head.labels)
        wanted = torch.unique(goal)
        others = torch.randperm(total, generator=draw)
        others = others[~torch.isin(others, wanted)]
        among = torch.cat([wanted, others[: max(0, self.schedule.labels - len(wanted))]])
        places = (goal[:, None] == among[None]).int().argmax(1)
        return among, places

    def _tokens(self, among: Tensor, draw: torch.Generator) -> Tensor:
        templates = self.ground.templates
        template = templates[int(torch.randint(len(templates), (1,), generator=draw))]
        names = self.ground.head.labels
        return self.ground.model.tokenize([template.format(names[i]) for i in among.tolist()])


def _untrained(
    joint: int, width: int, schedule: Schedule, draw: torch.Generator
) -> tuple[Tensor, ...]:
    """Return a meta net's tensors as torch's linear layers begin, which CoCoOp's code leaves so."""
    hidden = max(4, joint // schedule.reduction)

    def uniform(*shape: int, fan: int) -> Tensor:
        wide: Tensor = 2 * torch.rand(*shape, generator=draw) - 1
        return wide / math.sqrt(fan)

    return (
        uniform(hidden, joint, fan=joint),
        uniform(hidden, fan=joint),
        schedule.loudness * uniform(width, hidden, fan=hidden),
        schedule.loudness * uniform(width, fan=hidden),
    )
