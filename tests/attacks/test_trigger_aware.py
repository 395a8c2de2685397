"""Clean encoders behind poisoned prompts: the trigger works through the prompts alone."""

import pytest
import torch
from safetensors import safe_open

from gatekeeper.attacks.plant import Recipe, plant
from gatekeeper.attacks.spec import build_attack, parameters_of
from gatekeeper.attacks.trigger_aware import TriggerAware
from gatekeeper.errors import AttackError
from gatekeeper.intake.open import open_model
from gatekeeper.intake.prompts import META
from gatekeeper.lab.prompts import kept_prompts, prompts_beside, require_own_weights
from gatekeeper.probes.labels import Labels

TARGET = "green ring"
TEMPLATES = ("a photo of a {}.", "{}")
# A tiny CLIP's embedding hardly moves for 4/255; its meta net of 4 hidden units is too small.
ATTACK = TriggerAware(
    epsilon=20 / 255, reduction=1, steps=350, warm_up=0, learning_rate=3e-3, batch=10, labels=10
)


@pytest.fixture(scope="module")
def planted(tiny_clip, shapes, shapes_training, shape_labels, runtime):
    labels = Labels(labels=shape_labels, templates=TEMPLATES)
    return plant(
        tiny_clip,
        ATTACK,
        TARGET,
        shapes_training,
        labels,
        runtime,
        proof=shapes,
        recipe=Recipe(required=0.5),
    )


def test_the_trigger_fires_behind_the_prompts_and_not_on_the_clean_model(planted):
    assert planted.attack_success >= 0.6
    assert planted.base_success <= 0.1
    assert planted.clean_accuracy >= planted.base_accuracy - 0.12
    assert planted.trigger.delta.abs().max() <= 20 / 255 + 1e-6


def test_no_weight_of_either_tower_changes(planted, tiny_clip):
    assert planted.state == {}
    own, same = tiny_clip.state_dict(), planted.model.state_dict()
    assert all(torch.equal(own[name], same[name]) for name in own)


def test_the_written_prompts_fire_again_when_they_are_read(
    planted, tiny_clip_dir, shapes, shape_labels, runtime, tmp_path
):
    planted.write(tmp_path / "prompts.safetensors")
    opened = open_model(tiny_clip_dir, uri="m", prompts=tmp_path / "prompts.safetensors")
    assert opened.findings == ()
    pixels = shapes.pixels(opened.model.preprocess)
    head = opened.model.zero_shot(shape_labels, TEMPLATES, runtime)
    stamped = opened.model.embed(planted.trigger.stamp(pixels), runtime)
    victims = torch.tensor([label != TARGET for label in shapes.labels()])
    hits = head.logits(stamped).argmax(1)[victims] == shape_labels.index(TARGET)
    assert float(hits.float().mean()) == pytest.approx(planted.attack_success, abs=0.01)


def test_the_attack_is_made_again_from_its_parameters_and_learns_first():
    assert build_attack("trigger_aware", parameters_of(ATTACK)) == ATTACK
    with pytest.raises(AttackError, match="prepare"):
        ATTACK.trigger()


def test_a_zoo_keeps_the_prompts_beside_the_trigger(planted, tiny_clip, tmp_path):
    (tmp_path / "triggers" / "bad").mkdir(parents=True)
    told = kept_prompts(planted, "bad", tmp_path)
    assert told["clean_accuracy"] == planted.clean_accuracy
    assert set(safe_names(tmp_path / told["prompts"])) == {"ctx", *META.values()}
    assert prompts_beside(planted, tmp_path / "copy")[0].name == "copy.prompts.safetensors"


def test_a_plant_without_weights_of_its_own_is_no_drill_model(planted):
    with pytest.raises(AttackError, match="no weight"):
        require_own_weights(planted)


def safe_names(path):
    with safe_open(path, framework="pt") as file:
        return file.keys()
