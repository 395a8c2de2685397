"""Which units of which blocks does a trigger move?"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gatekeeper.clip.late import find_blocks
from gatekeeper.clip.model import ClipModel
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Critical:
    """The units of one block that a trigger moves most."""

    layer: str
    mask: Tensor  # of one image's activation, 0 or 1

    def distance(self, calm: Tensor, moved: Tensor) -> Tensor:
        """Return |mask (calm - moved)| / |mask calm| of activations' means over the batch."""
        dim = [i for i, side in enumerate(self.mask.shape) if side != calm.shape[i]]
        quiet, loud = (x.mean(dim, keepdim=True) if dim else x for x in (calm, moved))
        away: Tensor = ((quiet - loud) * self.mask).norm()
        whole: Tensor = (quiet * self.mask).norm().clamp_min(1e-6)
        return away / whole


@contextmanager
def recorded(model: ClipModel, layers: list[str]) -> Iterator[dict[str, Tensor]]:
    """Keep the latest output of each of `layers` while inside, [B, …]."""
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            kept[name] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [model.module.get_submodule(x).register_forward_hook(keeper(x)) for x in layers]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def layers_of(model: ClipModel) -> list[str]:
    """Return the names of a ResNet's layers 1 to 4, or of the tower's chain of blocks, in order.

    A ResNet's longest chain is within one of those layers, so that they are looked for first.
    """
    names = [name for name, _ in model.module.named_modules()]
    stages = [name for name in names if re.fullmatch(r"layer[1-4]", name.rpartition(".")[2])]
    if len(stages) == 4:
        return stages
    blocks = find_blocks(model)
    if not blocks.path:
        return []
    chain = model.module.get_submodule(blocks.path)
    return [f"{blocks.path}.{name}" for name, _ in chain.named_children()]


def critical_units(
    model: ClipModel,
    names: list[str],
    clean: Tensor,
    stamped: Tensor,
    layers: int,
    runtime: Runtime,
) -> list[Critical]:
    """Return the critical units of the `layers` of the blocks `names` that are moved most.

    A block's score is the relative change of its mean activation; within a block, 2-means on the
    units' absolute changes, the higher cluster. Source: InverTune (arXiv:2506.12411), step 3.
    """
    means = []
    with recorded(model, names) as kept, torch.no_grad():
        for images in (clean, stamped):
            runtime.meter.images(model.passes(images))
            model.image_tower(model.module, model.preprocess.normalise(images))
            means.append({name: _mean(value, len(images)) for name, value in kept.items()})
    scored = []
    for name in names:
        calm, moved = (each[name] for each in means)
        scored.append((float((calm - moved).norm() / calm.norm().clamp_min(1e-6)), name))
    chosen = [name for _, name in sorted(scored, reverse=True)[:layers]]
    return [
        Critical(layer=name, mask=_higher((means[0][name] - means[1][name]).abs()))
        for name in chosen
    ]


def _mean(value: Tensor, images: int) -> Tensor:
    """Return the mean over images, whose dimension is second in some towers; it keeps its place."""
    dim = 0 if value.shape[0] == images else 1
    return value.float().mean(dim, keepdim=True)


def _higher(change: Tensor) -> Tensor:
    """Return 1 where `change` belongs to the higher of two clusters, else 0."""
    from sklearn.cluster import KMeans

    flat = change.flatten().cpu().numpy()[:, None]
    found = KMeans(n_clusters=2, n_init=1, random_state=0).fit(flat)
    high = int(found.cluster_centers_[:, 0].argmax())
    return torch.from_numpy(found.labels_ == high).float().view_as(change).to(change.device)
