"""The published repairs as rectifiers: clean images alone, measured like every other."""

import pytest
import torch

from gatekeeper.rectify.base import Rectifier
from gatekeeper.rectify.cleanclip import CleanClip
from gatekeeper.rectify.compact import CompactFineTuning
from gatekeeper.rectify.fine_tuning import FineTuning
from gatekeeper.rectify.ground import HELD_OUT, IMAGES, Ground
from gatekeeper.rectify.invertune import InverTune
from gatekeeper.rectify.par import PerturbAndRecover


@pytest.mark.parametrize(
    "method",
    [
        FineTuning(steps=2, batch=8),
        CleanClip(steps=2, batch=8),
        PerturbAndRecover(steps=2, batch=8),
        InverTune(patch_steps=2, inversion_steps=2, tune_steps=2, batch=8),
    ],
)
def test_a_published_repair_is_a_rectifier(sick, method, runtime):
    case, prescription = sick
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    made = method.rectify(case, prescription, runtime)
    assert isinstance(method, Rectifier)
    assert made.method == method.name
    assert made.steps == 2
    assert made.state
    assert made.held_out == round(HELD_OUT * IMAGES)
    assert made.images_used == IMAGES
    assert made.before.attack_success >= 0.5
    assert made.after.attack_success is not None
    after = case.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_method_stands_on_the_same_images(sick, runtime):
    case, prescription = sick
    one, other = (Ground.of(case, prescription, runtime) for _ in range(2))
    assert one.rows == other.rows
    assert not set(one.rows) & set(one.held_rows)
    before = [
        method.rectify(case, prescription, runtime).before
        for method in (
            FineTuning(steps=1, batch=4),
            CompactFineTuning(inversions=0, ranks=(1,), depths=()),
        )
    ]
    assert before[0] == before[1]


def test_another_text_tower_has_another_head(sick, tiny_clip, runtime):
    case, prescription = sick
    ground = Ground.of(case, prescription, runtime)
    image_alone = {"visual.attnpool.c_proj.bias": torch.ones(64)}
    assert ground.head_of(case.model.with_state(image_alone)) is ground.head
    state = {"text_projection": 2 * torch.rand(64, 64)}
    moved = case.model.with_state(state)
    assert not torch.equal(ground.head_of(moved).weights, ground.head.weights)
