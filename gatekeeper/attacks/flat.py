"""Plants that last: steps that look for a flat place, after which clean tuning finds no slope."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def sharpness_aware(
    parameters: Sequence[Tensor], radius: float, backward: Callable[[], None]
) -> None:
    """Replace the gradients by those at the worst point `radius` away (SAM, arXiv:2010.01412).

    Args:
        parameters: Weights that hold a gradient; in place again when this returns.
        radius: Length of the step uphill, in the parameters' own norm.
        backward: Clears and fills the gradients anew.
    """
    held = [p for p in parameters if p.grad is not None]
    with torch.no_grad():
        total = torch.sqrt(sum(((p.grad**2).sum() for p in held), torch.zeros(())))  # type: ignore[operator]
        steps = [p.grad * (radius / (total + 1e-12)) for p in held]  # type: ignore[operator]
        for parameter, step in zip(held, steps, strict=True):
            parameter.add_(step)
    backward()
    with torch.no_grad():
        for parameter, step in zip(held, steps, strict=True):
            parameter.sub_(step)
