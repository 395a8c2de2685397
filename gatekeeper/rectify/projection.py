"""The image tower's last matrix, corrected in closed form so that a trigger loses its meaning.

A linear map from pooled features to embeddings is all that stands between what a late block makes
of a trigger and the target's caption. The correction is the ridge regression that sends triggered
features to their clean answers and leaves clean features alone, kept to one direction a trigger:
without that restriction it fits each image's noise and clean accuracy falls by 2 to 14 points.
Related: weight editing by least squares (MEMIT, arXiv:2210.07229), direction ablation
(arXiv:2603.10806). Choice of rank and of the two weights: docs/rectify.md.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from gatekeeper.clip.late import LateTower, as_stored
from gatekeeper.clip.model import BATCH
from gatekeeper.runtime import Runtime

TOLERANCE = 1e-3  # of a unit embedding: features times matrix must give what the tower gives


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Where the matrix is: embedding = features @ matrix (+ bias), after `transposed`."""

    name: str  # of the parameter
    bias: str | None
    transposed: bool  # kept as [D, width], as nn.Linear does


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Correction:
    """One trigger's images: their features, and what the embeddings lack to be right."""

    features: Tensor  # [N, width]
    missing: Tensor  # [N, D], in the scale of the tower's output


def find_projection(tower: LateTower, runtime: Runtime) -> Projection | None:
    """Return the last linear map of `tower`, proven on two images; None where it has none."""
    generator = torch.Generator().manual_seed(0)
    side = tower.source.size
    pixels = torch.rand(2, 3, side, side, generator=generator)
    features = tower.features(pixels, runtime)
    output = tower.output(features, runtime)
    parameters = dict(tower.module.named_parameters())
    for name, value in reversed(parameters.items()):
        if value.ndim != 2 or not value.requires_grad or output.shape[1] not in value.shape:
            continue
        bias = name.removesuffix("weight") + "bias" if name.endswith(".weight") else ""
        for transposed in (True, False):
            if value.shape[0 if transposed else 1] != output.shape[1]:
                continue
            found = Projection(
                name=name, bias=bias if bias in parameters else None, transposed=transposed
            )
            if _holds(tower, found, features, output, runtime):
                return found
    return None


def hidden(tower: LateTower, projection: Projection, features: Tensor, runtime: Runtime) -> Tensor:
    """Return what the projection is handed for `features` ([N, ...]), [N, width] on the CPU."""
    width = _parameter(tower, projection.name).shape[1 if projection.transposed else 0]
    names = [projection.name, *([projection.bias] if projection.bias else [])]
    kept = [_parameter(tower, name) for name in names]
    stand_ins = [torch.eye(width), torch.zeros(width)]
    try:  # an identity in its place makes the tower give the features themselves
        for name, old, new in zip(names, kept, stand_ins, strict=False):
            _put(tower, name, nn.Parameter(new.to(old), requires_grad=False))
        return torch.cat([tower.output(f, runtime).cpu() for f in torch.split(features, BATCH)])
    finally:
        for name, old in zip(names, kept, strict=True):
            _put(tower, name, old)


def matrix_of(tower: LateTower, projection: Projection) -> tuple[Tensor, Tensor]:
    """Return the matrix as [width, D] and the bias [D] (zeros where there is none), CPU."""
    matrix = _parameter(tower, projection.name).detach().float().cpu().clone()
    matrix = matrix.T if projection.transposed else matrix
    if projection.bias is None:
        return matrix, torch.zeros(matrix.shape[1])
    return matrix, _parameter(tower, projection.bias).detach().float().cpu()


def correct(
    tower: LateTower,
    projection: Projection,
    clean: Tensor,
    corrections: list[Correction],
    *,
    rank: int,
    keep: float,
    ridge: float,
) -> None:
    """Correct the projection of `tower` in place.

    Minimises, over the change M, the mean of |t M - r|^2 over triggered features t with missing
    r, plus `keep` * mean |c M|^2 over clean features c, plus `ridge` * mean(c^2) * |M|^2.

    Args:
        tower: What is corrected.
        projection: Where.
        clean: [N, width] features of clean images.
        corrections: One a trigger; each is reduced to `rank` directions of what is missing.
        rank: Directions a trigger.
        keep: Weight of clean features against triggered ones.
        ridge: Weight against change as such; holds what few clean images do not span.
    """
    moment = clean.T @ clean / len(clean)
    scale = float(moment.diagonal().mean())
    left = keep * moment + ridge * scale * torch.eye(clean.shape[1])
    right = torch.zeros(clean.shape[1], corrections[0].missing.shape[1])
    for correction in corrections:
        t = correction.features
        u, s, v = torch.linalg.svd(correction.missing, full_matrices=False)
        left = left + t.T @ t / len(t)
        right = right + t.T @ ((u[:, :rank] * s[:rank]) @ v[:rank]) / len(t)
    change = torch.linalg.solve(left.double(), right.double()).float()  # [width, D]
    matrix = _parameter(tower, projection.name)
    new = matrix.detach() + (change.T if projection.transposed else change).to(matrix)
    original = tower.source.state_dict()[projection.name]
    with torch.no_grad():
        matrix.copy_(as_stored(new, original))


def _holds(
    tower: LateTower, found: Projection, features: Tensor, output: Tensor, runtime: Runtime
) -> bool:
    try:
        inner = hidden(tower, found, features, runtime)
    except (RuntimeError, ValueError, AssertionError):
        return False
    matrix, bias = matrix_of(tower, found)
    if inner.ndim != 2 or inner.shape[1] != matrix.shape[0]:
        return False
    again = F.normalize(inner @ matrix + bias, dim=1)
    return bool(((again - F.normalize(output.cpu(), dim=1)).abs() < TOLERANCE).all())


def _parameter(tower: LateTower, name: str) -> nn.Parameter:
    return tower.module.get_parameter(name)


def _put(tower: LateTower, name: str, value: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(tower.module.get_submodule(path), leaf, value)
