"""The last matrix is found whatever form it has, and its correction takes one direction away."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.rectify.projection import (
    Correction,
    correct,
    find_projection,
    hidden,
    matrix_of,
)

WIDTH, DIM, SIZE = 24, 8, 16


class Tower(nn.Module):
    """Four convolutions and a projection in one of the forms that libraries use."""

    def __init__(self, form: str) -> None:
        super().__init__()
        sizes = [3, 8, 16, WIDTH, WIDTH]
        self.blocks = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in pairwise(sizes)]
        )
        self.form = form
        if form == "parameter":
            self.proj = nn.Parameter(torch.randn(WIDTH, DIM) / WIDTH**0.5)
        elif form != "none":
            self.head = nn.Linear(WIDTH, DIM, bias=form == "biased")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.blocks(x).mean(dim=(2, 3))
        if self.form == "parameter":
            return pooled @ self.proj
        return pooled[:, :DIM] ** 2 if self.form == "none" else self.head(pooled)


def model_of(form: str) -> ClipModel:
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(3)
        module = Tower(form).eval()
    return ClipModel(
        module=module,
        image_tower=lambda m, x: m(x),
        text_tower=lambda m, tokens: torch.nn.functional.one_hot(tokens[:, 0] % DIM, DIM).float(),
        tokenize=lambda prompts: torch.tensor([[sum(map(ord, p))] for p in prompts]),
        preprocess=Preprocess(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3),
        arch="toy",
        scale=10.0,
    )


def tower_of(form: str, cut: int = 2) -> LateTower:
    model = model_of(form)
    return LateTower(model, find_blocks(model), cut)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", ["linear", "biased", "parameter"])
def test_features_times_matrix_are_the_embedding(form, runtime):
    tower = tower_of(form)
    projection = find_projection(tower, runtime)
    assert projection is not None
    assert projection.transposed is (form != "parameter")
    before = {n: p.detach().clone() for n, p in tower.module.named_parameters()}
    features = tower.features(images(5), runtime)
    matrix, bias = matrix_of(tower, projection)
    again = hidden(tower, projection, features, runtime) @ matrix + bias
    assert torch.allclose(again, tower.output(features, runtime), atol=1e-5)
    after = dict(tower.module.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_tower_without_a_last_matrix_has_none(runtime):
    assert find_projection(tower_of("none"), runtime) is None


@pytest.mark.parametrize("form", ["linear", "biased", "parameter"])
def test_a_correction_moves_what_is_triggered_and_leaves_clean_images(form, runtime):
    tower = tower_of(form)
    projection = find_projection(tower, runtime)
    draw = torch.Generator().manual_seed(1)
    clean = torch.randn(200, WIDTH, generator=draw) * torch.linspace(1, 0.05, WIDTH)
    extra = torch.zeros(WIDTH)
    extra[-1] = 3.0  # a direction that clean images hardly use
    triggered = clean + extra
    old, _ = matrix_of(tower, projection)
    missing = -(extra @ old).expand(200, DIM)  # right is what the clean image gets
    correct(
        tower, projection, clean, [Correction(features=triggered, missing=missing)],
        rank=1, keep=1.0, ridge=0.01,
    )  # fmt: skip
    new, _ = matrix_of(tower, projection)
    left = (triggered @ new - clean @ old).norm(dim=1).mean()
    moved = (clean @ new - clean @ old).norm(dim=1).mean()
    assert float(left) < 0.15 * float(missing[0].norm())
    assert float(moved) < 0.1 * float((clean @ old).norm(dim=1).mean())
    assert int(torch.linalg.matrix_rank(new - old, rtol=1e-3)) == 1
