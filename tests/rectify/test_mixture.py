"""Mixing with the anchor shortens the fine-tune's change and takes what points at the target."""

from dataclasses import replace

import pytest
import torch
from test_compact import TEMPLATES, accuracy, case_of, prescribe
from test_projection import model_of

from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.rectify.compact import CompactFineTuning
from gatekeeper.rectify.mixture import first_block, mixture_of
from gatekeeper.rectify.projection import find_projection
from gatekeeper.rectify.run import rectify
from gatekeeper.triggers.invert import flip_rate


def head_cosine(model, anchor, projection, direction) -> float:
    """The cosine that the scan's head test looks at."""
    change = model.state_dict()[projection.name] - anchor.state_dict()[projection.name]
    change = change if projection.transposed else change.T
    top = torch.linalg.svd(change, full_matrices=False).U[:, 0]
    return float((top @ direction).abs())


@pytest.fixture(scope="module")
def mixture(planted, tiny_clip):
    return mixture_of(planted.model, tiny_clip)


@pytest.fixture(scope="module")
def projection(planted, runtime):
    blocks = find_blocks(planted.model)
    return find_projection(LateTower(planted.model, blocks, blocks.count - 1), runtime)


def test_half_a_share_lies_midway_and_the_text_tower_stays(planted, tiny_clip, mixture):
    own, theirs = planted.model.state_dict(), tiny_clip.state_dict()
    mixed = mixture.model(0.5, None, None).state_dict()
    assert mixture.names
    assert not any(n.startswith(("transformer", "token_embedding")) for n in mixture.names)
    for name in own:
        expected = (own[name] + theirs[name]) / 2 if name in mixture.names else own[name]
        assert torch.allclose(mixed[name].float(), expected.float(), atol=1e-5), name


def test_the_head_keeps_nothing_of_the_change_along_the_target(
    planted, tiny_clip, mixture, projection, shape_labels, runtime
):
    head = planted.model.zero_shot(shape_labels, TEMPLATES, runtime)
    directions = head.directions()[[head.labels.index(planted.target)]]
    mixed = mixture.model(1.0, projection, directions)
    change = mixed.state_dict()[projection.name] - tiny_clip.state_dict()[projection.name]
    along = directions @ (change if projection.transposed else change.T)
    assert float(along.abs().max()) < 1e-5
    assert head_cosine(mixed, tiny_clip, projection, directions[0]) < 0.05


def test_no_anchor_or_another_form_gives_no_mixture(planted, tiny_clip):
    assert mixture_of(planted.model, None) is None
    assert mixture_of(planted.model, planted.model) is None
    other = Preprocess(size=32, mean=(0.1,) * 3, std=(0.9,) * 3)
    assert mixture_of(planted.model, replace(tiny_clip, preprocess=other)) is None


def test_the_cut_lies_before_the_first_difference():
    model = model_of("biased")
    blocks = find_blocks(model)
    one = f"{blocks.path}.1.0.weight"
    changed = model.with_state({one: model.state_dict()[one] * 1.1})
    found = mixture_of(changed, model)
    assert found.names == (one,)
    assert first_block(found, blocks, blocks.count - 1) == 1
    assert found.after(LateTower(changed, blocks, 1))
    assert not found.after(LateTower(changed, blocks, 2))
    assert first_block(None, blocks, 2) == 2


def test_with_an_anchor_the_true_trigger_goes_and_the_head_is_level(
    planted, tiny_clip, shapes, shapes_training, shape_labels, projection, runtime
):
    case = case_of(planted.model, shapes_training, shape_labels, anchor=tiny_clip)
    result = rectify(case, prescribe(planted.target, planted.trigger), "auto", runtime)
    cured = planted.model.with_state(result.state)
    head = cured.zero_shot(shape_labels, TEMPLATES, runtime)
    place = head.labels.index(planted.target)
    pixels = shapes.pixels(cured.preprocess)
    assert any("change from the anchor" in note for note in result.notes)
    assert flip_rate(cured, pixels, planted.trigger, head, place, runtime) <= 0.02
    before = accuracy(planted.model, shapes, shape_labels, runtime)
    assert accuracy(cured, shapes, shape_labels, runtime) >= before - 0.02
    direction = head.directions()[place]
    assert head_cosine(cured, tiny_clip, projection, direction) < 0.3


def test_an_anchor_that_costs_clean_answers_is_left_out(
    planted, tiny_clip, shapes_training, shape_labels, runtime
):
    """An anchor whose image tower is noise would silence every trigger, and every answer."""
    state = tiny_clip.state_dict()
    generator = torch.Generator().manual_seed(1)
    noise = {
        n: torch.randn(x.shape, generator=generator) * x.std()
        for n, x in state.items()
        if n.startswith("visual.") and n.endswith("weight") and x.dim() > 1
    }
    case = case_of(planted.model, shapes_training, shape_labels, anchor=tiny_clip.with_state(noise))
    method = CompactFineTuning(images=64, inversions=0)
    result = method.rectify(case, prescribe(planted.target, planted.trigger), runtime)
    assert any("not mixed in" in note for note in result.notes)
    assert not any("change from the anchor" in note for note in result.notes)
