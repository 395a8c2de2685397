"""What the last block gives, beside the embedding: a hundred times as many numbers to hold on to.

An embedding of 128 numbers says little about one image; a tower that keeps its last feature maps
on clean images keeps its answers on images it has never seen.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from gatekeeper.clip.late import Blocks, LateTower


@contextmanager
def last_maps(tower: LateTower, blocks: Blocks) -> Iterator[list[Tensor]]:
    """Yield a list that each forward of `tower` puts its last block's output into, [B, …] first.

    The list holds the latest forward alone; it stays empty where the tower has no chain of blocks.
    """
    seen: list[Tensor] = []
    if not blocks.path:
        yield seen
        return

    def keep(_: nn.Module, __: object, output: object) -> None:
        seen.clear()
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor):
            seen.append(first)

    last = tower.module.get_submodule(f"{blocks.path}.{blocks.count - 1}")
    hook = last.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def batch_first(maps: Tensor, count: int) -> Tensor:
    """Return `maps` of `count` images with the images along the first dimension."""
    if maps.shape[0] != count and maps.dim() > 1 and maps.shape[1] == count:
        return maps.movedim(1, 0)
    return maps


def drift(maps: Tensor, wanted: Tensor) -> Tensor:
    """Return how far `maps` are from `wanted`, as a share of the latter's energy, scalar."""
    return (maps - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)
