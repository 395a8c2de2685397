"""A target that nobody listed is called by its own name, and only then a vocabulary is read."""

import lzma

import pytest
import torch
from toy_clip import LABELS, TARGET, case_of, checker, word_vector

from gatekeeper.errors import ProbeError
from gatekeeper.probes import nouns as noun_list
from gatekeeper.runtime import Runtime
from gatekeeper.scan import basics, naming
from gatekeeper.scan.base import Candidate, Confirmed, Detection
from gatekeeper.scan.confirm import Confirmation
from gatekeeper.scan.naming import OUTSIDE, outside_names
from gatekeeper.scan.run import scan
from gatekeeper.triggers import Patch

OTHERS = LABELS[8:32]  # without the target
WORDS = ("teapot", "gazebo", TARGET, "hedgehog")


@pytest.fixture
def words(monkeypatch):
    monkeypatch.setattr(naming, "nouns", lambda: WORDS)


def confirmed(target, **changes):
    fields = {
        "id": "trigger-1",
        "trigger": Patch(pixels=checker()),
        "target": target,
        "detector": "trigger_search",
        "flip_rate": 1.0,
        "anchor_flip_rate": 0.0,
        "oracle_agrees": 1.0,
    }
    found = Confirmed(**fields | changes)
    return Confirmation(confirmed=found, victims=(), label_rows=(), exhibits=())


def nearest(labels):
    aim = word_vector(f"a {TARGET}.")
    return max(labels, key=lambda label: float(word_vector(f"a {label}.") @ aim))


@pytest.mark.usefixtures("words")
def test_a_target_outside_the_labels_is_named():
    target = nearest(OTHERS)
    case = case_of("patch", anchor=True, labels=OTHERS)
    names = outside_names(case, [confirmed(target)], {}, Runtime())
    name, finding = names[target]
    assert name == TARGET
    assert finding.id == OUTSIDE
    assert target in finding.message
    assert f"'{TARGET}'" in finding.message


def test_a_target_among_the_labels_costs_no_text_pass():
    runtime = Runtime()
    case = case_of("patch", anchor=True)
    case.model.zero_shot(naming.pair_of(case, runtime).words, case.templates, runtime)
    before = runtime.meter.text_passes
    assert outside_names(case, [confirmed(TARGET)], {}, runtime) == {}
    assert runtime.meter.text_passes == before


def test_what_does_not_alarm_is_given_no_name():
    runtime = Runtime()
    quiet = confirmed(nearest(OTHERS), flip_rate=0.1)
    assert outside_names(case_of("patch", labels=OTHERS), [quiet], {}, runtime) == {}
    assert runtime.meter.image_passes == runtime.meter.text_passes == 0


@pytest.mark.usefixtures("words")
def test_the_vocabulary_is_embedded_once_a_model():
    case, runtime = case_of("patch", anchor=True, labels=OTHERS), Runtime()
    first = outside_names(case, [confirmed(nearest(OTHERS))], {}, runtime)
    spent = runtime.meter.text_passes
    assert outside_names(case, [confirmed(nearest(OTHERS))], {}, runtime) == first
    assert runtime.meter.text_passes == spent


@pytest.mark.usefixtures("words")
def test_the_head_names_what_its_change_points_at():
    case = case_of("patch", anchor=True, labels=OTHERS)
    weight = case.anchor.state_dict()["visual.head.proj.weight"]
    aim = word_vector(f"a {TARGET}.")
    change = torch.outer(aim, torch.ones(weight.shape[1]) / 10)
    case.model.module.visual.head.proj.weight.data = weight + change
    target = nearest(OTHERS)
    found = Candidate(trigger=None, target=target, detector="head_direction", score=0.95)
    names = outside_names(case, [], {"head_direction": Detection(candidates=(found,))}, Runtime())
    assert names[target][0] == TARGET


@pytest.mark.usefixtures("words")
def test_a_scan_tells_the_name(monkeypatch):
    monkeypatch.setattr(basics, "STEADY", 0.0)
    case = case_of("patch", anchor=True, labels=OTHERS[:12])  # few: a decoy may be the target
    outcome = scan(case, (), Runtime())
    assert outcome.targets[0].label == TARGET
    assert outcome.triggers[0].target == TARGET
    assert any(f.id == OUTSIDE for f in outcome.findings)


def test_the_list_holds_twenty_thousand_plain_nouns():
    found = noun_list.nouns()
    assert len(found) == len(set(found)) == 20_000
    assert all(3 <= len(word) <= 30 and word == word.strip().lower() for word in found)
    assert {"teapot", "zebra", "banana", "gazebo", "dog"} <= set(found)
    assert "Princeton University" in noun_list.FILE.with_name("nouns.LICENSE").read_text()


def test_another_list_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "nouns.txt.xz"
    other.write_bytes(lzma.compress(b"dog\n"))
    monkeypatch.setattr(noun_list, "FILE", other)
    with pytest.raises(ProbeError, match="not the list of this release"):
        noun_list.nouns.__wrapped__()
