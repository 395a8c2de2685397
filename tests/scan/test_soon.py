"""What one patch does to a model of which nothing else follows."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from toy_clip import TARGET, case_of, ground_of

from gatekeeper.clip.model import ClipModel
from gatekeeper.runtime import Runtime
from gatekeeper.scan import basics, soon, trigger_search
from gatekeeper.scan.base import Detection
from gatekeeper.scan.confirm import unconfirmed
from gatekeeper.scan.groups import groups_for
from gatekeeper.scan.hunt import Effort, Hunt
from gatekeeper.scan.outcome import bring_together
from gatekeeper.scan.pace import Pace
from gatekeeper.scan.run import Gathered, scan
from gatekeeper.scan.search import Found, Moved, Pull
from gatekeeper.scan.soon import BRIEF, ROUNDS, SEVERAL, SOON, SURELY, soon_patterns
from gatekeeper.scan.trigger_search import WEAK
from gatekeeper.triggers import Patch


def hunt_of(kind):
    runtime = Runtime()
    ground = ground_of(case_of(kind), runtime)
    return Hunt(ground=ground, effort=Effort(), limit=1e9, runtime=runtime)


def found_in(kind):
    hunt = hunt_of(kind)
    return soon_patterns(hunt, groups_for(hunt.ground.pair.model.size, anchored=False)[0])


def test_a_planted_patch_leads_alone():
    best = max(found_in("patch"), key=lambda c: c.score)
    assert best.target == TARGET
    assert best.detector == SOON
    assert isinstance(best.trigger, Patch)
    assert best.flip_rate >= SURELY
    assert best.score == pytest.approx(best.flip_rate - best.usual_flip_rate)


def test_a_clean_model_is_led_by_none():
    assert found_in("clean") == ()


def finds(monkeypatch, *rates, steps=3):
    """Return what follows from patches that lead at these rates to words, within so many steps."""
    hunt = hunt_of("clean")
    patches = groups_for(hunt.ground.pair.model.size, anchored=False)[0]
    patch = Patch(pixels=torch.zeros(3, 8, 8))
    pulls = [
        Pull(target=word, flip_rate=rate, anchor_flip_rate=None, rise=0.0)
        for word, rate in enumerate(rates)
    ]
    pace = Pace(growth=(9.0,) * steps, words=(0,) * steps, led=(1.0,) * steps)
    moved = Moved(group=patches, frees=(), pace=pace, steps=())
    left = iter(pulls)
    monkeypatch.setattr(Hunt, "moved", lambda *_, **__: moved)
    monkeypatch.setattr(soon, "judge_all", lambda *_: next(left))
    monkeypatch.setattr(
        soon,
        "_single",
        lambda hunt, moved, whole: Found(group=patches, frees=(), trigger=patch, pull=whole),
    )
    monkeypatch.setattr(soon, "ROUNDS", len(rates))
    return soon_patterns(hunt, patches)


def test_what_patches_gather_soon_counts_in_full(monkeypatch):
    (found,) = finds(monkeypatch, 0.9, 0.6)
    assert (found.score, found.usual_flip_rate) == (pytest.approx(0.9), 0.0)


def test_what_they_gather_in_time_says_nothing(monkeypatch):
    assert finds(monkeypatch, 0.9, steps=BRIEF) == ()


def test_two_planted_patches_do_not_excuse_each_other(monkeypatch):
    assert [f.score for f in finds(monkeypatch, 0.9, 0.8)] == pytest.approx([0.9, 0.8])


def test_where_prompts_depend_on_the_image_nothing_is_searched(monkeypatch):
    monkeypatch.setattr(ClipModel, "conditional", property(lambda _: True))
    assert found_in("patch") == ()


def test_what_a_search_led_to_is_left_out_of_the_next(monkeypatch):
    hunt, aims = hunt_of("clean"), []
    patches = groups_for(hunt.ground.pair.model.size, anchored=False)[0]

    def moved(self, group, aim, name, *args, **kwargs):
        assert kwargs["steps"] == BRIEF
        aims.append(aim)
        return search(self, group, aim, name, *args, **kwargs)

    search = Hunt.moved
    monkeypatch.setattr(Hunt, "moved", moved)
    monkeypatch.setattr(soon, "GROWS", -1.0)
    assert soon_patterns(hunt, patches, known=[3]) == ()
    assert len(aims) == ROUNDS
    excluded = [set(aim.excluded.tolist()) for aim in aims]
    assert 3 in excluded[0]
    assert all(before < after for before, after in pairwise(excluded))


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
    assert [(t.label, t.detector) for t in outcome.targets] == [(TARGET, SOON)]


def test_and_a_clean_model_gets_no_verdict():
    outcome = scanned("clean")
    assert outcome.score is None
    (why,) = [f.message for f in outcome.findings if f.id == WEAK]
    assert "plain changes of colour change" in why
    assert "--anchor" in why
