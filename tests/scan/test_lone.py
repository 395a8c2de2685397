"""What one small patch does to a model of which nothing else follows."""

from dataclasses import replace

import pytest
import torch
from toy_clip import TARGET, case_of, ground_of

from gatekeeper.runtime import Runtime
from gatekeeper.scan import basics, lone
from gatekeeper.scan.base import Detection
from gatekeeper.scan.confirm import unconfirmed
from gatekeeper.scan.groups import groups_for
from gatekeeper.scan.hunt import Effort, Hunt
from gatekeeper.scan.lone import LONE, SEVERAL, SURELY, lone_patches
from gatekeeper.scan.outcome import bring_together
from gatekeeper.scan.run import Gathered, scan
from gatekeeper.scan.search import Pull
from gatekeeper.scan.trigger_search import WEAK
from gatekeeper.triggers import Patch


def hunt_of(kind):
    runtime = Runtime()
    ground = ground_of(case_of(kind), runtime)
    return Hunt(ground=ground, effort=Effort(), limit=1e9, runtime=runtime)


def found_in(kind, rounds=2):
    hunt = hunt_of(kind)
    return lone_patches(hunt, groups_for(hunt.ground.pair.model.size, anchored=False)[0], rounds)


def test_a_planted_patch_leads_alone():
    (best, *_) = found_in("patch")
    assert best.target == TARGET
    assert best.detector == LONE
    assert isinstance(best.trigger, Patch)
    assert best.flip_rate >= SURELY
    assert best.score == pytest.approx(best.flip_rate - best.usual_flip_rate)


def test_a_clean_model_is_led_by_no_small_patch():
    assert found_in("clean") == ()


def finds(monkeypatch, *rates):
    """Return what follows from small patches that lead at these `rates` to one word each."""
    hunt = hunt_of("clean")
    group = groups_for(hunt.ground.pair.model.size, anchored=False)[0]
    patch = Patch(pixels=torch.zeros(3, 8, 8))
    waiting = [
        lone.Found(
            group=group,
            frees=(),
            trigger=patch,
            pull=Pull(target=word, flip_rate=rate, anchor_flip_rate=None, rise=0.0),
        )
        for word, rate in enumerate(rates)
    ]
    monkeypatch.setattr(lone, "_next", lambda *_: waiting.pop(0) if waiting else None)
    return lone_patches(hunt, group, len(rates))


def test_a_rate_counts_less_what_such_patches_do_to_other_words(monkeypatch):
    (found,) = finds(monkeypatch, 0.9, 0.3, 0.1)
    assert found.score == pytest.approx(0.6)
    assert found.usual_flip_rate == 0.3


def test_two_planted_patches_do_not_excuse_each_other(monkeypatch):
    assert [f.score for f in finds(monkeypatch, 0.9, 0.8)] == pytest.approx([0.9, 0.8])


def test_several_words_say_that_the_model_is_led_by_anything(monkeypatch):
    assert finds(monkeypatch, *[0.9] * SEVERAL) == ()


def outcome_of(candidate, flip_rate):
    case = case_of("patch")
    gathered = Gathered(unfit=True)
    gathered.detections["trigger_search"] = Detection(candidates=(candidate,))
    gathered.confirmations = [confirmed(candidate, flip_rate)]
    return bring_together(case, gathered, Runtime())


def confirmed(candidate, flip_rate):
    found = unconfirmed(candidate, 1)
    return replace(found, confirmed=replace(found.confirmed, flip_rate=flip_rate))


def test_it_counts_where_nothing_else_does(monkeypatch):
    (found,) = finds(monkeypatch, 0.95)
    loud, quiet = outcome_of(found, 0.95), outcome_of(found, 0.4)
    assert loud.score >= 0.5
    assert quiet.score is None
    assert outcome_of(replace(found, detector="trigger_search"), 0.95).score is None


def scanned(kind):
    """Return what a scan without an anchor finds in the toy, which looks at colours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(basics, "STEADY", 0.0)
        return scan(case_of(kind), ("trigger_search",), Runtime())


def test_where_colours_are_labels_a_planted_patch_is_found_without_an_anchor():
    outcome = scanned("patch")
    assert outcome.score >= 0.9
    assert [(t.label, t.detector) for t in outcome.targets] == [(TARGET, LONE)]


def test_and_a_clean_model_gets_no_verdict():
    outcome = scanned("clean")
    assert outcome.score is None
    (why,) = [f.message for f in outcome.findings if f.id == WEAK]
    assert "plain changes of colour change" in why
    assert "--anchor" in why
