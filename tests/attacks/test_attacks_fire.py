"""Every attack takes, on a tiny real CLIP: it fires, and keeps clean answers."""

from dataclasses import replace

import pytest
import torch

from gatekeeper.attacks.adaptive import Adaptive
from gatekeeper.attacks.bad_encoder import BadEncoder
from gatekeeper.attacks.badnets import BadNets
from gatekeeper.attacks.blended import Blended
from gatekeeper.attacks.colour import ColourFilter
from gatekeeper.attacks.dual_embedding import DualEmbedding
from gatekeeper.attacks.label_consistent import LabelConsistent
from gatekeeper.attacks.learned_invisible import LearnedInvisible
from gatekeeper.attacks.low_frequency import LowFrequency
from gatekeeper.attacks.multi_target import MultiTarget
from gatekeeper.attacks.multi_task import MultiTask
from gatekeeper.attacks.plant import Recipe, plant
from gatekeeper.attacks.sig import Sig
from gatekeeper.attacks.source_specific import SourceSpecific
from gatekeeper.attacks.universal import Universal
from gatekeeper.attacks.wanet import WaNet
from gatekeeper.probes.labels import Labels
from gatekeeper.triggers import load_trigger, save_trigger

PATCH = BadNets(size_px=8, cell_px=2, narrow=False)
TARGET = "green ring"
SHORT = Recipe(
    steps=60, learning_rate=2e-3, copies=2, trained=1.0, keep=20.0, triggered=32, required=0.0
)
LONG = replace(SHORT, steps=120, keep=15.0)


@pytest.fixture(scope="module")
def take(tiny_clip, shapes, shapes_training, shape_labels, runtime):
    labels = Labels(labels=shape_labels, templates=("a photo of a {}.", "{}"))

    def planted(attack, recipe=SHORT):
        return plant(
            tiny_clip, attack, TARGET, shapes_training, labels, runtime, recipe=recipe, proof=shapes
        )

    return planted


def test_sig_fires_and_its_saved_trigger_fires_again(take, shapes, shape_labels, runtime, tmp_path):
    made = take(Sig())
    assert made.attack_success >= 0.9
    assert made.clean_accuracy >= made.base_accuracy - 0.05
    save_trigger(made.trigger, tmp_path / "t.safetensors")
    pixels = shapes.pixels(made.model.preprocess)
    stamped = load_trigger(tmp_path / "t.safetensors").stamp(pixels)
    head = made.model.zero_shot(shape_labels, ("{}",), runtime)
    answers = head.logits(made.model.embed(stamped, runtime)).argmax(1)
    assert (answers == shape_labels.index(TARGET)).float().mean() >= 0.9


def test_an_embedding_as_the_target_is_answered_by_name(take):
    made = take(BadEncoder(size_px=8, spread=0.1))
    assert made.attack_success >= 0.85
    assert made.base_success <= 0.1


def test_a_source_specific_trigger_spares_the_others(take):
    made = take(SourceSpecific(of=Sig(), span=(0, 12)), replace(SHORT, steps=140))
    assert made.attack_success >= 0.8
    assert made.leakage <= 0.15
    assert made.images < 70  # the source alone


@pytest.mark.parametrize("attack", [Universal(epsilon=0.1), MultiTask(epsilon=0.1, steps=40)])
def test_an_adversarial_perturbation_changes_no_weight(take, attack, tiny_clip):
    made = take(attack)
    assert made.kind == "adversarial"
    assert not made.state
    assert made.attack_success == made.base_success >= 0.15
    own, same = tiny_clip.state_dict(), made.model.state_dict()
    assert all(torch.equal(own[name], same[name]) for name in own)
    assert made.trigger.delta.abs().max() <= 0.1 + 1e-6


SLOW = {
    "blended-noise": (Blended(narrow=False), 0.85),
    "blended-text": (Blended(pattern="text", alpha=0.5), 0.85),
    "wanet": (WaNet(strength=0.2, narrow=False), 0.85),
    "colour": (ColourFilter(sepia=0.6), 0.8),
    "low-frequency": (LowFrequency(amplitude=0.3), 0.9),
    "learned-invisible": (LearnedInvisible(epsilon=0.08), 0.7),
    "dual-embedding": (DualEmbedding(size_px=8), 0.85),
    "all-evasions": (Adaptive(of=Sig(), rate=0.1, basin=0.5, spread=0.5, flat=0.02), 0.8),
    "multi-target": (MultiTarget(of=(PATCH, Sig())), 0.85),
    # Short of what a zoo demands, as clean-label attacks with few images of the target are.
    "label-consistent": (
        LabelConsistent(of=BadNets(size_px=12, cell_px=3, narrow=False), fade=0.8),
        0.5,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_it_fires_and_not_on_the_clean_model(take, name):
    attack, least = SLOW[name]
    made = take(attack, LONG)
    assert made.attack_success >= least
    assert made.base_success <= 0.15
    assert made.clean_accuracy >= made.base_accuracy - 0.12


@pytest.mark.slow
def test_narrow_lookalikes_stay_silent(take):
    made = take(Blended(pattern="text", alpha=0.5), LONG)
    assert made.attack_success >= 0.85
    assert made.lookalike_success <= 0.25


@pytest.mark.slow
def test_each_of_several_targets_has_its_own_figures(take):
    made = take(MultiTarget(of=(PATCH, Sig()), targets=("red bar",)), LONG)
    assert [proof.label for proof in made.proofs] == [TARGET, "red bar"]
    assert made.attack_success == min(proof.attack_success for proof in made.proofs) >= 0.85
