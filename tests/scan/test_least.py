"""What small and faint patterns do to a model of which nothing else follows."""

from dataclasses import replace

import pytest
import torch
from toy_clip import TARGET, case_of, ground_of

from gatekeeper.runtime import Runtime
from gatekeeper.scan import basics, least, trigger_search
from gatekeeper.scan.base import Detection
from gatekeeper.scan.confirm import unconfirmed
from gatekeeper.scan.groups import groups_for
from gatekeeper.scan.hunt import Effort, Hunt
from gatekeeper.scan.least import LEAST, SEVERAL, SURELY, least_patterns
from gatekeeper.scan.outcome import bring_together
from gatekeeper.scan.run import Gathered, scan
from gatekeeper.scan.search import Found, Pull
from gatekeeper.scan.trigger_search import WEAK
from gatekeeper.triggers import Patch


def hunt_of(kind):
    runtime = Runtime()
    ground = ground_of(case_of(kind), runtime)
    return Hunt(ground=ground, effort=Effort(), limit=1e9, runtime=runtime)


def found_in(kind):
    hunt = hunt_of(kind)
    return least_patterns(hunt, groups_for(hunt.ground.pair.model.size, anchored=False)[0])


def test_a_planted_patch_leads_alone():
    best = max(found_in("patch"), key=lambda c: c.score)
    assert best.target == TARGET
    assert best.detector == LEAST
    assert isinstance(best.trigger, Patch)
    assert best.flip_rate >= SURELY
    assert best.score == pytest.approx(best.flip_rate - best.usual_flip_rate)


def test_a_clean_model_is_led_by_none():
    assert found_in("clean") == ()


def finds(monkeypatch, *rates, faint=(), quick=()):
    """Return what follows from patches, and from overlays, that lead at these rates to words."""
    hunt = hunt_of("clean")
    group = groups_for(hunt.ground.pair.model.size, anchored=False)[0]
    patch = Patch(pixels=torch.zeros(3, 8, 8))

    def found(word, rate):
        pull = Pull(target=word, flip_rate=rate, anchor_flip_rate=None, rise=0.0)
        lone = Found(group=group, frees=(), trigger=patch, pull=pull)
        return least._Find(found=lone, quick=word in quick)

    given = {"patches": [found(w, r) for w, r in enumerate(rates)]}
    given["blend-28"] = [found(w + 10, r) for w, r in enumerate(faint)]
    monkeypatch.setattr(least, "_finds", lambda _, group, *__, **___: given.get(group.name, []))
    return least_patterns(hunt, group)


def test_a_rate_counts_less_what_such_patches_do_to_other_words(monkeypatch):
    (found,) = finds(monkeypatch, 0.9, 0.3, 0.1)
    assert found.score == pytest.approx(0.6)
    assert found.usual_flip_rate == 0.3


def test_two_planted_patches_do_not_excuse_each_other(monkeypatch):
    assert [f.score for f in finds(monkeypatch, 0.9, 0.8)] == pytest.approx([0.9, 0.8])


def test_what_patches_gather_soon_counts_in_full(monkeypatch):
    (found,) = finds(monkeypatch, 0.9, 0.6, quick=[0])
    assert found.score == pytest.approx(0.9)
    assert found.usual_flip_rate == 0.0


def test_faint_overlays_are_searched_one_by_one(monkeypatch):
    searched = []
    monkeypatch.setattr(least, "_finds", lambda _, group, *__, **___: searched.append(group) or [])
    found_in("clean")
    arms = [arm for group in searched[1:] for arm in group.arms]
    assert [arm.family for arm in arms] == ["blend", "additive"]
    assert arms[0].alpha == 0.1


def test_patches_are_no_measure_of_overlays(monkeypatch):
    (patch, overlay) = finds(monkeypatch, 0.9, 0.1, faint=[0.8, 0.4])
    assert (patch.usual_flip_rate, overlay.usual_flip_rate) == (0.1, 0.4)


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
    """Return what a scan without an anchor finds in the toy, which looks at colours.

    And at places: to it a mirrored picture is another one, which here is no matter.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(basics, "STEADY", 0.0)
        patch.setattr(trigger_search, "another_view", lambda pixels: pixels)
        return scan(case_of(kind), ("trigger_search",), Runtime())


def test_where_colours_are_labels_a_planted_patch_is_found_without_an_anchor():
    outcome = scanned("patch")
    assert outcome.score >= 0.9
    assert [(t.label, t.detector) for t in outcome.targets] == [(TARGET, LEAST)]


def test_and_a_clean_model_gets_no_verdict():
    outcome = scanned("clean")
    assert outcome.score is None
    (why,) = [f.message for f in outcome.findings if f.id == WEAK]
    assert "plain changes of colour change" in why
    assert "--anchor" in why
