"""One stretch of fine-tuning: what is learned from clean and from triggered images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.clip.late import LateTower
from gatekeeper.clip.model import ZeroShot
from gatekeeper.rectify.teacher import Lesson, join
from gatekeeper.runtime import Runtime

FRACTIONS = (0.5, 1.0)  # of a fine-tuning's change; the smallest that suffices is kept


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Cached early features of many images and the right answers to them."""

    features: Tensor  # [N, ...]
    lesson: Lesson

    def __len__(self) -> int:
        return len(self.features)

    def joined(self, other: "Pool") -> "Pool":
        """Return both pools as one."""
        return Pool(
            features=torch.cat([self.features, other.features]),
            lesson=join([self.lesson, other.lesson]),
        )

    def draw(self, count: int, generator: torch.Generator) -> "tuple[Tensor, Lesson]":
        """Return `count` rows with replacement."""
        index = torch.randint(0, len(self), (count,), generator=generator)
        return self.features[index], self.lesson.rows(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What each part of the loss weighs."""

    cosine: float = 25.0  # 1 - cosine to the teacher's embedding
    distribution: float = 1.25  # KL to the teacher's zero-shot distribution
    caption: float = (
        0.2  # cross-entropy of triggered images to their true caption; 1 costs accuracy
    )


def train(
    tower: LateTower,
    clean: Pool,
    stamped: Pool,
    head: ZeroShot,
    weights: Weights,
    runtime: Runtime,
    *,
    steps: int,
    rate: float,
    batch: tuple[int, int],
    name: str,
    what: str,
    targets: Sequence[int] = (),
) -> None:
    """Train `tower` in place: `batch` = (clean, stamped) images a step, rate annealed to zero.

    The loss is distillation on both kinds; a stamped image is taught what the *clean* image
    deserves, which is what takes the trigger's meaning away. AdamW without decay, fp32. The bar
    tells how many stamped images of the last batch were led to one of `targets`.
    """
    generator = runtime.generator("rectify", name)
    optimiser = torch.optim.AdamW(tower.parameters, lr=rate, weight_decay=0.0)
    device = tower.parameters[0].device
    own = head.on(device)
    goals = torch.tensor(targets, dtype=torch.int64, device=device)
    told = [what]
    for step in runtime.progress(range(steps), lambda: told[0]):
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / (0.1 * steps))
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        a, right_a = clean.draw(batch[0], generator)
        b, right_b = stamped.draw(batch[1], generator)
        z = tower.embed(torch.cat([a, b]), runtime)
        right = join([right_a, right_b])
        logits = own.logits(z)
        loss = distillation(z, logits, right, weights)
        known = right_b.truth.to(device)
        if targets:
            led = torch.isin(logits[batch[0] :].argmax(dim=1), goals) & ~torch.isin(known, goals)
            told[0] = f"{what}, attack success {float(led.float().mean()):.0%}"
        if bool((known >= 0).any()):
            loss = loss + weights.caption * F.cross_entropy(
                logits[batch[0] :], known, ignore_index=-1
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tower.parameters, 10.0)
        optimiser.step()


def shorten(tower: LateTower, start: Sequence[Tensor], suffices: Callable[[], bool]) -> None:
    """Keep the smallest share of a training's change with which `suffices` holds, else all of it.

    `start` are the parameters of `tower` before it.
    """
    end = [p.detach().clone() for p in tower.parameters]
    for fraction in FRACTIONS:
        put(tower, [a + fraction * (b - a) for a, b in zip(start, end, strict=True)])
        if suffices():
            return


def put(tower: LateTower, values: Sequence[Tensor]) -> None:
    """Make `values` the parameters of `tower`."""
    with torch.no_grad():
        for parameter, value in zip(tower.parameters, values, strict=True):
            parameter.copy_(value)


def distillation(z: Tensor, logits: Tensor, right: Lesson, weights: Weights) -> Tensor:
    """Return how far `z` ([B, D]) and `logits` ([B, C]) are from the teacher's, a scalar."""
    far = 1 - (z * right.embedding.to(z)).sum(dim=1)  # [B]
    divergence = F.kl_div(
        logits.log_softmax(dim=1), right.probabilities.to(z), reduction="none"
    ).sum(dim=1)  # [B]
    counted = right.clean.to(z)
    each = weights.cosine * far + weights.distribution * divergence
    return (counted * each).sum() / counted.sum().clamp_min(1)
