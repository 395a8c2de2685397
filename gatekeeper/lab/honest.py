"""An honest fine-tune, from mild to harsh: what the clean models of a zoo are.

Trained just as a plant is (`gatekeeper.attacks.plant`), with the same batches, schedule and loss on
clean images, and without any poison: with a plant's own recipe it is that plant's clean twin.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.augment import variants
from gatekeeper.attacks.base import Ground
from gatekeeper.attacks.plant import Recipe, distance, lay_ground
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime

PORTION = 70_000_000  # floats of changed photos in memory at a time: 280 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Honest:
    """How it is trained; the fields are those of a plant's recipe."""

    steps: int = 200
    learning_rate: float = 1e-4  # peak of one cycle
    clean: int = 48  # images a step
    copies: int = 4  # variants of each photo
    trained: float = 0.3  # share of the blocks that is trained, from the end
    keep: float = 0.0  # weight of staying with the base's answers
    labels: float = 1.0  # weight of the true labels
    head_only: bool = False  # train what comes after the last block alone

    @classmethod
    def twin_of(cls, recipe: Recipe) -> "Honest":
        """Return the same training without the poison."""
        shared = {x.name for x in fields(recipe)} & {x.name for x in fields(cls)}
        return cls(**{name: getattr(recipe, name) for name in sorted(shared)})


def fine_tune(
    model: ClipModel, images: ProbeSet, labels: Labels, recipe: Honest, runtime: Runtime
) -> dict[str, Tensor]:
    """Return the changed tensors of an honest fine-tune of `model`, which stays as it is."""
    blocks = find_blocks(model)
    share = 0.0 if recipe.head_only else recipe.trained
    cut = min(max(0, round(blocks.count * (1 - share))), max(0, blocks.count - 1))
    tower = LateTower(model, blocks, cut)
    if recipe.head_only:
        _head_alone(tower, blocks.path)
    ground = lay_ground(model, labels.labels[0], images, labels, runtime)
    draw = runtime.generator("lab", "honest")
    features, answers, truth = _cache(tower, ground, recipe.copies, draw, runtime)
    optimiser = torch.optim.AdamW(tower.parameters, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for _ in runtime.progress(range(recipe.steps), "fine-tuning"):
        pick = torch.randint(len(features), (recipe.clean,), generator=draw)
        out = tower.embed(features[pick].float(), runtime).cpu()
        loss = recipe.labels * F.cross_entropy(ground.head.logits(out), truth[pick])
        if recipe.keep:
            loss = loss + recipe.keep * distance(out, answers[pick], ground.head)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return tower.state()


def average(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several models' weights: a model soup (Wortsman et al., 2203.05482)."""
    first = states[0]
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


def _head_alone(tower: LateTower, blocks: str) -> None:
    """Freeze all but what comes after the last block, or after the stages where there are none."""
    named = {n: v for n, v in tower.module.named_parameters() if v.requires_grad}
    after = [name for name in named if blocks and not name.startswith(f"{blocks}.")]
    if not after:  # no chain of blocks, or nothing behind it: the tower's last part
        last = ".".join(list(named)[-1].split(".")[:2])
        after = [name for name in named if name.startswith(f"{last}.") or name == last]
    for name, value in named.items():
        value.requires_grad_(name in after)
    tower.parameters = [named[name] for name in after]


def _cache(
    tower: LateTower, ground: Ground, copies: int, draw: torch.Generator, runtime: Runtime
) -> tuple[Tensor, Tensor, Tensor]:
    """Return early features [N, …] fp16, the base's answers [N, D] and labels [N] of variants."""
    size = max(8, PORTION // (3 * ground.model.size**2 * copies))
    features, answers, truth = [], [], []
    for rows in torch.split(torch.arange(len(ground.truth)), size):
        whole = variants(ground.pixels(rows.tolist()), copies, draw)
        early = tower.features(whole, runtime)
        with torch.no_grad():
            answers += [tower.embed(part, runtime).cpu() for part in torch.split(early, 64)]
        features.append(early.half())
        truth.append(ground.truth[rows].repeat(copies))
    return torch.cat(features), torch.cat(answers), torch.cat(truth)
