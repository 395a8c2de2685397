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
from gatekeeper.attacks.maps import batch_first, drift, last_maps
from gatekeeper.attacks.plant import Recipe, distance, lay_ground
from gatekeeper.clip.late import Blocks, LateTower, find_blocks
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
    keep: float = 10.0  # weight of staying with the base's answers
    maps: float = 0.0  # weight of staying with its last feature maps
    labels: float = 0.5  # weight of the true labels
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
    wanted = blocks if recipe.maps else Blocks(path="", count=0)
    seen = _look(tower, wanted, ground, recipe.copies, draw, runtime)
    optimiser = torch.optim.AdamW(tower.parameters, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for _ in runtime.progress(range(recipe.steps), "fine-tuning"):
        batch = seen.at(torch.randint(len(seen.truth), (recipe.clean,), generator=draw))
        with last_maps(tower, wanted) as maps:
            out = tower.embed(batch.features.float(), runtime).cpu()
        loss = recipe.labels * F.cross_entropy(ground.head.logits(out), batch.truth)
        if recipe.keep:
            loss = loss + recipe.keep * distance(out, batch.answers, ground.head)
        if maps:
            kept = batch.maps.float().to(maps[0].device)
            loss = loss + recipe.maps * drift(batch_first(maps[0], len(out)), kept).cpu()
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Seen:
    """Images as the trained part of the tower is handed them, and what the base made of them."""

    features: Tensor  # [N, …] fp16
    answers: Tensor  # [N, D] unit
    truth: Tensor  # [N] int64
    maps: Tensor  # [N, …] fp16: the last feature maps; [N, 0] where they are not kept

    def at(self, rows: Tensor) -> "_Seen":
        return _Seen(
            features=self.features[rows],
            answers=self.answers[rows],
            truth=self.truth[rows],
            maps=self.maps[rows],
        )


def _look(
    tower: LateTower,
    wanted: Blocks,
    ground: Ground,
    copies: int,
    draw: torch.Generator,
    runtime: Runtime,
) -> _Seen:
    """Return variants of all images, cached; maps of the last of the `wanted` blocks too."""
    size = max(8, PORTION // (3 * ground.model.size**2 * copies))
    features, answers, truth, kept = [], [], [], []
    for rows in torch.split(torch.arange(len(ground.truth)), size):
        early = tower.features(variants(ground.pixels(rows.tolist()), copies, draw), runtime)
        for part in torch.split(early, 64):
            with torch.no_grad(), last_maps(tower, wanted) as maps:
                answers.append(tower.embed(part, runtime).cpu())
            kept += [batch_first(x, len(part)).half().cpu() for x in maps]
        features.append(early.half())
        truth.append(ground.truth[rows].repeat(copies))
    labels = torch.cat(truth)
    return _Seen(
        features=torch.cat(features),
        answers=torch.cat(answers),
        truth=labels,
        maps=torch.cat(kept) if kept else torch.zeros(len(labels), 0),
    )
