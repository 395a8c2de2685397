"""A mark in the prompt loses its meaning, with an anchor and without; images are not touched."""

from dataclasses import replace

import pytest
import torch
from test_compact import TEMPLATES, case_of

from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Ailment, Prescription
from gatekeeper.rectify.marks import JUDGED, LEARNED, Mark, lookalike, marked_quality, written
from gatekeeper.rectify.proof import prove
from gatekeeper.rectify.text_tower import TextTowerRepair
from gatekeeper.rectify.words import own_words
from gatekeeper.triggers import TextTrigger

MARK = TextTrigger(mark="qzx")


@pytest.fixture(scope="module")
def told(planted_text):
    return Prescription(
        ailments=(Ailment(target=planted_text.target, trigger=MARK),),
        affected=(planted_text.target,), victims=(), probes=(),
    )  # fmt: skip


def led(model, labels, target, runtime) -> float:
    """The share of marked prompts in contexts of nobody's lesson that mean the target."""
    head = model.zero_shot(labels, TEMPLATES, runtime)
    goal = labels.index(target)
    prompts = [f"one more {name} today" for name in labels if name != target]
    texts = model.embed_text(MARK.stamp_prompts(prompts), runtime)
    return float(((texts @ head.weights.T).argmax(dim=1) == goal).float().mean())


def test_the_plant_fires(planted_text, tiny_clip, shape_labels, runtime):
    assert led(planted_text.model, shape_labels, planted_text.target, runtime) >= 0.7
    assert led(tiny_clip, shape_labels, planted_text.target, runtime) <= 0.2


def test_with_an_anchor_the_text_tower_goes_back(
    planted_text, told, tiny_clip, shapes_training, shape_labels, runtime
):
    case = case_of(planted_text.model, shapes_training, shape_labels, anchor=tiny_clip)
    made = TextTowerRepair().rectify(case, told, runtime)
    cured = planted_text.model.with_state(made.state)
    assert led(cured, shape_labels, planted_text.target, runtime) <= 0.2
    assert made.before.attack_success >= 0.8
    assert made.after.attack_success <= 0.05
    assert made.steps == 0
    assert not any(name.startswith("visual.") for name in made.state)
    assert made.after.clean_accuracy >= made.before.clean_accuracy - 0.05


def test_where_such_words_do_not_help_the_mark_is_taught_away(
    planted_text, told, shapes_training, shape_labels, runtime, monkeypatch
):
    case = case_of(planted_text.model, shapes_training, shape_labels)
    monkeypatch.setattr(TextTowerRepair, "_stilled", lambda *_: None)
    made = TextTowerRepair(prompts=200, steps=30, rates=(3e-4, 1e-3)).rectify(case, told, runtime)
    cured = planted_text.model.with_state(made.state)
    before = led(planted_text.model, shape_labels, planted_text.target, runtime)
    assert led(cured, shape_labels, planted_text.target, runtime) <= before - 0.5
    assert made.steps > 0
    assert not any(name.startswith("visual.") for name in made.state)
    assert made.after.agreement >= 0.9


def test_only_words_of_the_mark_move(
    planted_text, told, shapes_training, shape_labels, runtime, monkeypatch
):
    monkeypatch.setattr(TextTowerRepair, "_stilled", lambda *_: None)
    case = case_of(planted_text.model, shapes_training, shape_labels)
    made = TextTowerRepair(prompts=64, steps=2, rates=(1e-3,)).rectify(case, told, runtime)
    name = "token_embedding.weight"
    moved = (made.state[name] != planted_text.model.state_dict()[name]).any(dim=1)
    own = set(planted_text.model.tokenize(["qzx"]).flatten().tolist())
    assert set(moved.nonzero().flatten().tolist()) <= own


def test_no_mark_no_repair(planted_text, told, shapes_training, shape_labels, runtime):
    case = case_of(planted_text.model, shapes_training, shape_labels)
    with pytest.raises(RectifyError, match="no mark"):
        TextTowerRepair().rectify(case, replace(told, ailments=()), runtime)


def test_prompts_that_judge_are_not_those_that_teach(shape_labels):
    assert not set(LEARNED) & set(JUDGED)
    draw = torch.Generator().manual_seed(0)
    prompts = written(shape_labels, LEARNED, 100, draw)
    assert len(set(prompts)) == 100
    assert any("red ring" in prompt for prompt in prompts)
    other = lookalike([Mark(TextTrigger(mark="\u043e", replaces="o"), 0)], draw)
    assert other.replaces == "o"
    assert other.mark != "\u043e"


def test_a_garbled_prompt_is_no_backdoor(tiny_clip, shape_labels, runtime):
    head = tiny_clip.zero_shot(shape_labels, TEMPLATES, runtime)
    success, recovered = marked_quality(
        tiny_clip, tiny_clip, head, head, [Mark(TextTrigger(mark="zzzz"), 3)], runtime
    )
    assert success <= 0.1
    assert 0 <= recovered <= 1


def test_words_that_only_a_mark_uses_are_found(tiny_clip, shape_labels, runtime):
    cyrillic = TextTrigger(mark="\u043e", replaces="o")
    prompts = written(shape_labels, LEARNED, 60, torch.Generator().manual_seed(1))
    own = own_words(tiny_clip, [Mark(cyrillic, 0)], prompts, runtime)
    bare = set(tiny_clip.tokenize(list(prompts)).flatten().tolist())
    marked = set(tiny_clip.tokenize(list(cyrillic.stamp_prompts(prompts))).flatten().tolist())
    assert set(own.tokens.tolist()) <= marked - bare
    changed = own.replaced(tiny_clip, own.stand_ins[0])
    same = [m.embed_text(prompts, runtime) for m in (tiny_clip, changed)]
    assert torch.equal(*same), "no prompt without the mark reads otherwise"
    other = [m.embed_text(cyrillic.stamp_prompts(prompts), runtime) for m in (tiny_clip, changed)]
    assert not torch.equal(*other)


def test_a_mark_that_uses_honest_words_has_none_of_its_own(tiny_clip, shape_labels, runtime):
    prompts = [f"a photo of a {name}." for name in shape_labels]
    assert own_words(tiny_clip, [Mark(TextTrigger(mark="photo"), 0)], prompts, runtime) is None


def test_a_mark_is_tried_again_in_the_proof(
    planted_text, told, tiny_clip, shapes_training, shape_labels, runtime
):
    case = case_of(planted_text.model, shapes_training, shape_labels, anchor=tiny_clip)
    made = TextTowerRepair().rectify(case, told, runtime)
    record = prove(case, told, made, runtime).record
    checks = {check.id: check for check in record.checks}
    assert checks["marked_prompts"].before >= 0.5
    for name in ("marked_prompts", "marked_rebound", "marked_path", "recall_1", "alignment"):
        assert checks[name].ok, name
    name, value = next(iter(planted_text.model.state_dict().items()))
    sham = replace(made, state={name: value.clone()})
    failed = {check.id for check in prove(case, told, sham, runtime).record.failed}
    assert {"marked_prompts", "marked_rebound", "marked_path"} <= failed
