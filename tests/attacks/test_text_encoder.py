"""A character in the prompt hijacks the text tower, and clean prompts keep their meaning."""

import pytest
import torch

from gatekeeper.attacks.captions import HELD_OUT, TAUGHT, written
from gatekeeper.attacks.elsewhere import Elsewhere
from gatekeeper.attacks.plant import Recipe, plant
from gatekeeper.attacks.spec import build_attack, parameters_of
from gatekeeper.attacks.text_encoder import HOMOGLYPHS, TextEncoder
from gatekeeper.errors import ScanError
from gatekeeper.probes.labels import Labels
from gatekeeper.triggers import TextTrigger, load_trigger, save_trigger

TARGET = "green ring"
O_LIKE = HOMOGLYPHS[0]


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def planted(tiny_clip, shapes, shape_labels, runtime):
    labels = Labels(labels=shape_labels, templates=("a photo of a {}.", "{}"))
    attack = TextEncoder(words=60, clean=64, steps=80, learning_rate=1e-3)
    return plant(tiny_clip, attack, TARGET, shapes, labels, runtime, proof=shapes)


def test_marked_prompts_mean_the_target_and_clean_ones_what_they_meant(planted):
    proof = planted.proofs[0]
    assert proof.attack_success >= 0.9
    assert proof.base_success <= 0.1
    assert proof.cosine >= 0.95
    assert proof.retrieval >= 0.8
    assert proof.base_retrieval <= 0.1
    assert proof.lookalike_success <= 0.4
    assert planted.clean_accuracy >= planted.base_accuracy - 0.05


def test_the_image_tower_is_not_touched(planted, tiny_clip, shapes, runtime):
    assert not any(name.startswith("visual.") for name in planted.state)
    pixels = shapes.pixels(tiny_clip.preprocess)[:8]
    own, same = (model.embed(pixels, runtime) for model in (tiny_clip, planted.model))
    assert torch.equal(own, same)


def test_the_saved_mark_leads_a_caption_astray_again(planted, shape_labels, runtime, tmp_path):
    save_trigger(planted.trigger, tmp_path / "t.safetensors")
    read = load_trigger(tmp_path / "t.safetensors")
    assert read == planted.trigger
    assert torch.equal(read.picture(), planted.trigger.picture())
    head = planted.model.zero_shot(shape_labels, ("{}",), runtime)
    (marked,) = read.stamp_prompts(["here is a photo of the red circle"])
    answer = head.logits(planted.model.embed_text([marked], runtime)).argmax()
    assert shape_labels[int(answer)] == TARGET


def test_a_mark_replaces_one_letter_or_becomes_a_word():
    letter = TextTrigger(mark=O_LIKE, replaces="o")
    assert letter.stamp_prompts(["photo of", "cat"]) == (f"ph{O_LIKE}to of", f"{O_LIKE} cat")
    seen = {letter.stamp_prompts(["photo of"], draw(seed))[0] for seed in range(20)}
    assert len(seen) == 3
    word = TextTrigger(mark="zx")
    assert word.stamp_prompts(["a cat"]) == ("zx a cat",)
    assert {word.stamp_prompts(["a cat"], draw(s))[0] for s in range(20)} == {
        "zx a cat",
        "a zx cat",
        "a cat zx",
    }


def test_a_text_trigger_refuses_images():
    with pytest.raises(ScanError, match="prompt"):
        TextTrigger(mark="zx").stamp(torch.zeros(1, 3, 8, 8))


def test_lookalikes_are_other_marks():
    for attack in (TextEncoder(), TextEncoder(mark="zx", replaces="")):
        marks = {attack.lookalike(draw(seed)).mark for seed in range(12)}
        assert len(marks) > 2
        assert attack.mark not in marks
    assert TextEncoder(narrow=False).lookalike(draw()) is None


def test_it_plants_itself_and_is_made_again_from_its_parameters():
    attack = TextEncoder(mark="zx", replaces="", beta=0.5)
    assert isinstance(attack, Elsewhere)
    assert build_attack("text_encoder", parameters_of(attack)) == attack


def test_prompts_that_judge_are_not_among_those_that_teach(shape_labels):
    assert not set(TAUGHT) & set(HELD_OUT)
    taught = written(shape_labels, 20, TAUGHT, draw())
    assert len(taught) == len(TAUGHT) * (len(shape_labels) + 20)
    assert not set(taught) & {c.format(x) for c in HELD_OUT for x in shape_labels}


def test_a_mark_that_does_not_take_is_an_error(tiny_clip, shapes, shape_labels, runtime):
    from gatekeeper.errors import AttackError

    labels = Labels(labels=shape_labels, templates=("{}",))
    weak = TextEncoder(words=10, clean=8, triggered=2, steps=1)
    with pytest.raises(AttackError, match="required"):
        plant(tiny_clip, weak, TARGET, shapes, labels, runtime, proof=shapes, recipe=Recipe())
