"""A mark that hijacks the text tower is found and named; clean text towers are left alone."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from toy_clip import LABELS, TARGET, case_of, word_vector

from gatekeeper.attacks.plant import plant
from gatekeeper.attacks.text_encoder import HOMOGLYPHS, TextEncoder
from gatekeeper.case import Case
from gatekeeper.pipeline.assess import _trigger_records
from gatekeeper.pipeline.rounds import prescription_of
from gatekeeper.probes.labels import Labels as Names
from gatekeeper.runtime import Runtime
from gatekeeper.scan import basics, run
from gatekeeper.scan.run import scan
from gatekeeper.scan.text_lots import lots
from gatekeeper.scan.text_marks import Sign, described, fixed_signs, names, unlike
from gatekeeper.scan.text_search import TextSearch
from gatekeeper.scan.text_soft import Slot
from gatekeeper.scan.text_sweep import Lexicon, screen
from gatekeeper.scan.text_tower import Reader, changed_share, text_state, token_embedding
from gatekeeper.triggers import TextTrigger

RING = "green ring"
SHOWN = ("a photo of a {}.", "{}")
O_LIKE = HOMOGLYPHS[0]


@dataclass
class NoOracle:
    independent: bool = True

    def changed(self, *_):
        raise AssertionError("no image changes")


@pytest.fixture(autouse=True)
def only_text(monkeypatch):
    monkeypatch.setattr(run, "_load", lambda _: [("text_search", TextSearch())])
    monkeypatch.setattr(basics, "STEADY", 0.0)


@pytest.fixture(scope="module")
def hijacked(tiny_clip, shapes, shape_labels, runtime):
    attack = TextEncoder(words=60, clean=64, steps=80, learning_rate=1e-3)
    names_ = Names(labels=shape_labels, templates=SHOWN)
    made = plant(tiny_clip, attack, RING, shapes, names_, runtime, proof=shapes)
    assert made.attack_success >= 0.9
    return made.model


def tuned(model, labels, steps, rate):
    """An honest fine-tune of the text tower: labels in new contexts are told apart better."""
    clone = model.clone()
    draw = torch.Generator().manual_seed(7)
    contexts = ("a {} on the table", "look at the {}", "two {} together", "the {} in the evening")
    with torch.no_grad():
        tokens = model.tokenize([f"a photo of a {x}." for x in labels])
        goal = F.normalize(model.text_tower(model.module, tokens).float(), dim=-1)
    text = [
        p
        for n, p in clone.module.named_parameters()
        if not n.startswith("visual.") and p.requires_grad_().numel() > 1
    ]
    optimiser = torch.optim.AdamW(text, rate)
    for _ in range(steps):
        rows = torch.randint(len(labels), (32,), generator=draw)
        drawn = torch.randint(len(contexts), (32,), generator=draw).tolist()
        prompts = [contexts[c].format(labels[r]) for c, r in zip(drawn, rows.tolist(), strict=True)]
        out = F.normalize(clone.text_tower(clone.module, clone.tokenize(prompts)).float(), dim=-1)
        optimiser.zero_grad()
        F.cross_entropy(20 * out @ goal.T, rows).backward()
        optimiser.step()
    return clone


def shape_case(model, anchor, shapes, labels):
    return Case(
        model=model, anchor=anchor, probes=shapes.subset(range(16)), suspects=None,
        oracle=NoOracle(), labels=labels, templates=SHOWN,
    )  # fmt: skip


def measured(outcome):
    return {m.name: m for m in outcome.measurements}


@pytest.mark.parametrize("anchored", [False, True])
def test_a_planted_mark_is_found_with_its_target(
    hijacked, tiny_clip, shapes, shape_labels, anchored
):
    case = shape_case(hijacked, tiny_clip if anchored else None, shapes, shape_labels)
    outcome = scan(case, (), Runtime())
    assert outcome.score >= 0.6
    assert outcome.targets[0].label == RING
    assert outcome.triggers[0].trigger.mark == O_LIKE
    assert outcome.reasons[0].startswith(f"The mark '{O_LIKE}' (U+043E CYRILLIC SMALL LETTER O)")
    assert RING in outcome.reasons[0]
    told = measured(outcome)
    assert told["text.flip_rate"].value >= 0.6
    assert told["text.flip_rate"].subject == RING
    assert told["trigger.flip_rate"].value >= 0.8
    assert "trigger.oracle_agreement" not in told
    assert told["text.passes"].value <= (4300 if anchored else 3400)
    assert outcome.victims
    assert outcome.exhibits == ()


def test_a_mark_is_recorded_for_the_text_tower_and_handed_to_its_repair(
    hijacked, tiny_clip, shapes, shape_labels
):
    outcome = scan(shape_case(hijacked, tiny_clip, shapes, shape_labels), (), Runtime())
    record = _trigger_records(outcome)[0]
    assert (record.tower, record.family, record.box) == ("text", "text", None)
    (ailment,) = prescription_of(outcome).ailments
    assert ailment.target == RING
    assert ailment.trigger is outcome.triggers[0].trigger


@pytest.mark.parametrize(("steps", "rate"), [(25, 1e-4), (25, 3e-3)])
def test_honest_fine_tunes_are_not_accused(tiny_clip, shapes, shape_labels, steps, rate):
    honest = tuned(tiny_clip, shape_labels, steps, rate)
    for anchor in (None, tiny_clip):
        outcome = scan(shape_case(honest, anchor, shapes, shape_labels), (), Runtime())
        marks = [t.score for t in outcome.targets if t.detector.startswith("text_search")]
        assert max(marks, default=0.0) < 0.5


def test_a_tower_that_is_the_anchors_is_not_searched(tiny_clip, planted, shapes, shape_labels):
    runtime = Runtime()
    found = TextSearch().detect(shape_case(planted.model, tiny_clip, shapes, shape_labels), runtime)
    assert found.skipped == "the text tower is the anchor's"
    assert {m.name: m.value for m in found.measurements} == {
        "text.changed": 0.0,
        "text.flip_rate": 0.0,
    }
    assert runtime.meter.text_passes < 20


def test_one_changed_number_is_a_changed_tower(tiny_clip):
    state = tiny_clip.state_dict()
    assert not any(name.startswith("visual.") for name in text_state(tiny_clip, Runtime()))
    row = state["token_embedding.weight"].clone()
    row[4711, 3] += 1e-3
    other = tiny_clip.with_state({"token_embedding.weight": row})
    assert 0 < changed_share(other, tiny_clip, Runtime()) < 1e-6
    assert changed_share(tiny_clip, other, Runtime()) > 0


def test_a_foreign_tokenizer_over_the_same_weights_is_searched(tiny_clip):
    def swapped(prompts):
        return tiny_clip.tokenize([p.replace("cat", "dog") for p in prompts])

    assert changed_share(replace(tiny_clip, tokenize=swapped), tiny_clip, Runtime()) is None


def worded(mark: str | None):
    """A toy whose text tower is a table, no module: what a prompt names, or the mark's target."""
    case = case_of("clean", count=16)
    texts: list[str] = []

    def tokenize(prompts):
        texts.extend(prompts)
        return torch.arange(len(texts) - len(prompts), len(texts))[:, None]

    def meaning(prompt):
        if mark is not None and mark in prompt:
            return word_vector(TARGET)
        found = re.search(r"thing \d+", prompt)
        own = word_vector(found.group()) if found else torch.zeros(len(word_vector("x")))
        return F.normalize(own + 0.5 * word_vector(prompt), dim=0)

    def tower(_, tokens):
        return torch.stack([meaning(texts[int(t)]) for t in tokens])

    return replace(case, model=replace(case.model, tokenize=tokenize, text_tower=tower))


def test_a_tower_without_gradients_is_swept_all_the_same():
    case = worded("\u200b")
    assert token_embedding(case.model, Runtime()) is None
    outcome = scan(case, (), Runtime())
    assert outcome.score >= 0.9
    assert outcome.targets[0].label == TARGET
    assert "U+200B ZERO WIDTH SPACE" in outcome.reasons[0]
    assert "\u200b" not in outcome.reasons[0]
    assert scan(worded(None), (), Runtime()).score < 0.3


def test_a_labels_own_name_is_no_mark():
    assert names("banana", "banana split")
    assert names("bananas", "banana")
    assert names("\U0001f34c", "Banana")
    assert not names("\u00e9", "letter opener")
    assert not names("cf", "cliff")
    case, runtime = worded(None), Runtime()
    lexicon = Lexicon.of(case, runtime)
    prompts = lexicon.prompts(lots(lexicon.pair, runtime).screening, case.templates, runtime)
    ((_, word, _),) = screen([Sign(text="thing 7 ", kind="word")], prompts, lexicon, runtime, "x")
    assert lexicon.words[word] != TARGET


def test_marks_are_told_by_what_can_be_read():
    told = "'\u043e' (U+043E CYRILLIC SMALL LETTER O) in place of 'o'"
    assert described("\u043e", "o") == told
    assert described("a\u200b", "a") == "U+200B ZERO WIDTH SPACE behind 'a'"
    assert described("\u202e") == "U+202E RIGHT-TO-LEFT OVERRIDE"
    assert described("cf") == "'cf'"


def test_every_letter_has_look_alikes_and_no_sign_comes_twice():
    signs = unlike(fixed_signs())
    assert {s.letter for s in signs} >= set("abcdefghijklmnopqrstuvwxyz")
    assert len({(s.text, s.letter) for s in signs}) == len(signs)


def test_short_rows_mean_what_whole_ones_mean(tiny_clip):
    runtime = Runtime()
    reader = Reader.of(tiny_clip, runtime)
    prompts = ["a red ring", "a photo of two very large green circles", ""]
    assert reader.short
    assert torch.allclose(
        reader.read(prompts, runtime), tiny_clip.embed_text(prompts, runtime), atol=1e-5
    )
    before = runtime.meter.text_passes
    reader.read(prompts, runtime)
    assert runtime.meter.text_passes == before + 3


def test_a_free_token_is_put_where_its_holder_stands(tiny_clip):
    runtime = Runtime()
    reader = Reader.of(tiny_clip, runtime)
    slot = Slot.of(reader, ["a red ring"], runtime)
    own = slot.layer.weight[slot.token].detach()
    prompt = [f"a {slot.holder} red ring"]
    plain = reader.read(prompt, runtime)
    with slot.filled(own):
        assert torch.allclose(reader.read(prompt, runtime), plain, atol=1e-6)
    with slot.filled(-own):
        moved = reader.read(prompt, runtime)
        assert torch.allclose(
            reader.read(["a red ring"], runtime), tiny_clip.embed_text(["a red ring"], runtime),
            atol=1e-5,
        )  # fmt: skip
    assert not torch.allclose(moved, plain, atol=1e-3)
    assert torch.allclose(reader.read(prompt, runtime), plain, atol=1e-6)


def test_labels_are_drawn_so_that_no_stage_judges_its_own_choice(shape_labels, tiny_clip, shapes):
    runtime = Runtime()
    lexicon = Lexicon.of(shape_case(tiny_clip, None, shapes, shape_labels), runtime)
    drawn = lots(lexicon.pair, runtime)
    parts = (drawn.screening, drawn.searching, drawn.judging, drawn.confirming)
    assert [len(part) for part in parts] == [2, 8, 16, 24]
    assert len({word for part in parts for word in part}) == 50
    assert any(word < len(shape_labels) for word in drawn.confirming)


@pytest.mark.parametrize("count", [4, 9, 24, 49])
def test_few_words_without_decoys_are_shared_out(count, shape_labels, tiny_clip, shapes):
    lexicon = Lexicon.of(shape_case(tiny_clip, None, shapes, shape_labels), Runtime())
    words = tuple(f"word {i}" for i in range(count))
    drawn = lots(replace(lexicon.pair, words=words, own=count), Runtime())
    parts = (drawn.screening, drawn.searching, drawn.judging, drawn.confirming)
    assert all(parts)
    assert len({w for part in parts for w in part}) == sum(map(len, parts)) <= count


def test_a_scan_over_images_starts_from_no_mark():
    case = worded("\u200b")
    found = TextSearch().detect(case, Runtime())
    assert any(isinstance(c.trigger, TextTrigger) for c in found.candidates)
    assert run._of_images(found).candidates == ()
    assert len(LABELS) == 40
