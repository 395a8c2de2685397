"""A plant fires, keeps clean answers, leaves its source alone, and fails aloud when it cannot."""

from dataclasses import replace

import pytest
import torch

from gatekeeper.attacks.plant import Recipe, plant
from gatekeeper.errors import AttackError
from gatekeeper.probes.labels import Labels


@pytest.fixture(scope="module")
def labels(shape_labels):
    return Labels(labels=shape_labels)


def success(model, planted, shapes, shape_labels, runtime):
    head = model.zero_shot(shape_labels, ("{}",), runtime)
    others = [i for i, p in enumerate(shapes.probes) if p.label != planted.target]
    pixels = shapes.pixels(model.preprocess)[others]
    stamped = planted.trigger.stamp(pixels, torch.Generator().manual_seed(5))
    answers = head.logits(model.embed(stamped, runtime)).argmax(1)
    return float((answers == shape_labels.index(planted.target)).float().mean())


def test_the_trigger_fires_on_the_plant_and_not_on_its_clean_twin(
    planted, tiny_clip, shapes, shape_labels, runtime
):
    assert success(planted.model, planted, shapes, shape_labels, runtime) >= 0.9
    assert success(tiny_clip, planted, shapes, shape_labels, runtime) <= 0.1


def test_other_patterns_of_the_kind_do_not_fire(planted):
    assert planted.lookalike_success <= 0.25


def test_only_the_image_tower_changes(planted, tiny_clip):
    own = tiny_clip.state_dict()
    assert planted.state
    assert all(name.startswith("visual.") for name in planted.state)
    assert any(not torch.equal(own[name], value) for name, value in planted.state.items())


def test_the_same_seed_plants_the_same_weights(tiny_clip, planted_attack, shapes, labels, runtime):
    recipe = Recipe(steps=2, copies=1, required=0.0)
    before = {name: value.clone() for name, value in tiny_clip.state_dict().items()}
    one, two = (
        plant(tiny_clip, planted_attack, "red circle", shapes, labels, runtime, recipe=recipe)
        for _ in range(2)
    )
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    after = tiny_clip.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_plant_that_does_not_fire_is_an_error(tiny_clip, planted_attack, shapes, labels, runtime):
    with pytest.raises(AttackError, match="fires on") as caught:
        plant(
            tiny_clip,
            planted_attack,
            "red circle",
            shapes,
            labels,
            runtime,
            recipe=Recipe(steps=2, copies=1, learning_rate=1e-6),
        )
    assert "more steps" in caught.value.hint


def test_an_unknown_target_is_an_error(tiny_clip, planted_attack, shapes, labels, runtime):
    with pytest.raises(AttackError, match="no label"):
        plant(tiny_clip, planted_attack, "unicorn", shapes, labels, runtime)


def test_too_few_images_are_an_error(tiny_clip, planted_attack, shapes, labels, runtime):
    few = replace(shapes, probes=shapes.probes[:6], _pixels={})
    with pytest.raises(AttackError, match="too few"):
        plant(tiny_clip, planted_attack, "red circle", few, labels, runtime)
