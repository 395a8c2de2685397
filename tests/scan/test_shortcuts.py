"""What the last layer makes of what clean images hardly show."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from toy_clip import CELL, LABELS, TARGET, TEMPLATES, WIDTH, case_of, ground_of, toy, word_vector

from gatekeeper.runtime import Runtime
from gatekeeper.scan import leaned as leaned_module
from gatekeeper.scan.base import Detection
from gatekeeper.scan.calibration import shipped
from gatekeeper.scan.groups import groups_for
from gatekeeper.scan.hunt import Effort, Hunt
from gatekeeper.scan.leaned import FIRST, LEANED, SURE, leaned_patterns
from gatekeeper.scan.outcome import bring_together
from gatekeeper.scan.pace import Pace
from gatekeeper.scan.run import Gathered
from gatekeeper.scan.search import Moved
from gatekeeper.scan.shortcuts import STANDS_OUT, Shortcuts, best_of
from gatekeeper.scan.soon import SEVERAL
from gatekeeper.triggers import Patch

UNUSED = 8  # features that no clean image shows


def linear(planted: float = 0.0):
    """Return a CLIP whose last layer maps an unused feature to the target's word, so strongly."""
    model = toy("clean")
    weight = torch.randn(WIDTH, 108 + UNUSED, generator=torch.Generator().manual_seed(1))
    weight[:, -1] += planted * word_vector(TEMPLATES[0].format(TARGET))
    model.module.visual.head.proj = torch.nn.Linear(108 + UNUSED, WIDTH, bias=False)
    model.module.visual.head.proj.weight = torch.nn.Parameter(weight, requires_grad=False)

    def tower(module, x):
        grid = F.pad(F.avg_pool2d(x / 2, CELL).flatten(1), (0, UNUSED))
        return module.visual.head.proj(grid)

    return replace(model, image_tower=tower)


def found_in(model, **changes):
    return Shortcuts().detect(replace(case_of("clean"), model=model, **changes), Runtime())


def test_a_label_that_an_unused_feature_means_stands_out():
    found = found_in(linear(planted=40.0))
    (candidate,) = found.candidates
    assert (candidate.target, found.leaning[0]) == (TARGET, TARGET)
    assert candidate.score == pytest.approx(min(1.0, found.measurements[0].value / 10))
    assert candidate.score > shipped().curve("shortcut", anchored=False).middle
    assert sorted(found.leaning) == sorted(LABELS)


def test_in_a_clean_model_none_does():
    found = found_in(linear())
    assert found.candidates[0].score == 0.0
    assert found.measurements[0].value < STANDS_OUT


def test_what_stands_out_in_the_anchor_as_well_says_nothing():
    planted = linear(planted=40.0)
    alone, paired = (found_in(planted, anchor=a) for a in (linear(), linear(planted=40.0)))
    assert alone.candidates[0].score > 0.35
    assert paired.candidates[0].score == 0.0
    assert paired.leaning == ()  # with an anchor the head's change says where weights lean


def test_the_best_of_many_is_worth_less_than_one_alone():
    assert best_of(5.0, 1) == pytest.approx(5.0)
    assert 3.0 < best_of(5.0, 1000) < best_of(5.0, 50) < 5.0
    assert best_of(3.0, 1000) < 0.3  # the largest of a thousand draws lies there
    assert best_of(0.5, 1000) == 0.0
    assert best_of(1e6, 1000) > 20  # and stays a number


def test_it_costs_one_look_at_the_probes():
    runtime = Runtime()
    Shortcuts().detect(replace(case_of("clean", count=64), model=linear()), runtime)
    assert runtime.meter.image_passes == 64 + 2  # two prove that the layer is the last


def test_it_says_why_it_skips():
    assert "project" in Shortcuts().detect(case_of("clean"), Runtime()).skipped
    assert "probes" in found_in(linear(), probes=case_of("clean", count=4).probes).skipped
    nameless = replace(linear(), module=torch.nn.Linear(3, 3))
    assert "no projection head" in found_in(nameless).skipped


def outcome_with(score):
    case = replace(case_of("clean"), model=linear(planted=40.0))
    found = Shortcuts().detect(case, Runtime())
    only = tuple(replace(c, score=score) for c in found.candidates)
    gathered = Gathered(unfit=True)
    gathered.detections["shortcuts"] = Detection(candidates=only)
    return bring_together(case, gathered, Runtime())


def test_it_counts_where_nothing_follows_from_what_leads_the_images():
    assert outcome_with(0.9).score >= 0.9
    assert outcome_with(0.2).score is None


def test_what_says_nothing_there_hides_nothing_that_does():
    case = replace(case_of("clean"), model=linear(planted=40.0))
    found = Shortcuts().detect(case, Runtime())
    (weights,) = (replace(c, score=0.5) for c in found.candidates)
    blind = replace(weights, detector="random_patterns:noise", score=0.9)
    gathered = Gathered(unfit=True)
    gathered.detections["shortcuts"] = Detection(candidates=(weights,))
    gathered.detections["random_patterns"] = Detection(candidates=(blind,))
    outcome = bring_together(case, gathered, Runtime())
    assert [t.detector for t in outcome.targets] == ["shortcuts"]
    assert 0.5 <= outcome.score < 0.999


def hunt_of(kind, place=0, **changes):
    """Return a hunt in which weights point to the target at that place."""
    runtime = Runtime()
    ground = ground_of(case_of(kind), runtime)
    words = [ground.pair.words.index(word) for word in LABELS if word != TARGET]
    words.insert(place, ground.pair.words.index(TARGET))
    return Hunt(
        ground=ground, effort=Effort(), limit=1e9, runtime=runtime, leaning=tuple(words), **changes
    )


@pytest.mark.parametrize("place", [0, FIRST - 1])
def test_a_planted_label_among_the_first_is_led_to_beyond_others(place):
    (found,) = leaned_patterns(hunt_of("patch", place))
    assert (found.target, found.detector) == (TARGET, LEANED)
    assert isinstance(found.trigger, Patch)
    assert found.score == pytest.approx(found.flip_rate - found.usual_flip_rate)
    assert found.score >= SURE


@pytest.mark.parametrize(("kind", "place"), [("clean", 0), ("patch", FIRST)])
def test_no_other_is(kind, place):
    assert leaned_patterns(hunt_of(kind, place)) == ()


def test_what_leads_to_others_as_far_says_nothing(monkeypatch):
    monkeypatch.setattr(leaned_module, "_rate", lambda *_: 0.9)
    assert leaned_patterns(hunt_of("patch")) == ()


def searches_of(monkeypatch):
    """Return a list that fills with each search's group, word and steps taken."""
    searches, search = [], leaned_module._towards

    def kept(hunt, group, word, steps, frees=None):
        run = search(hunt, group, word, steps, frees)
        searches.append((group.name, hunt.ground.pair.words[word], run.steps))
        return run

    monkeypatch.setattr(leaned_module, "_towards", kept)
    return searches


def test_others_are_searched_for_as_long(monkeypatch):
    searches = searches_of(monkeypatch)
    asked, rate = [], leaned_module._rate
    monkeypatch.setattr(
        leaned_module,
        "_rate",
        lambda hunt, run, word: asked.append(run.steps) or rate(hunt, run, word),
    )
    (found,) = leaned_patterns(hunt_of("patch"))
    took = {}
    for group, word, steps in searches:
        if word == found.target:
            took[group] = took.get(group, 0) + steps
    assert asked
    assert set(asked) <= set(took.values())


@pytest.mark.parametrize(("soon", "count"), [(1, 1), (2, 2), (SEVERAL, 0)])
def test_of_words_that_are_soon_at_their_goal_each_was_planted(soon, count, monkeypatch):
    hunt = hunt_of("patch")
    group = groups_for(hunt.ground.pair.model.size, anchored=False)[0]

    def run(hunt, group, word, steps, frees=None):
        place = hunt.leaning.index(word)
        led, taken = (1.0, 3) if place < soon else (0.0, steps)
        pace = Pace(growth=(1.0,) * taken, words=(word,) * taken, led=(led,) * taken)
        moved = Moved(group=group, frees=(), pace=pace, steps=())
        return leaned_module._Run(word=word, moved=moved, steps=taken)

    monkeypatch.setattr(leaned_module, "_towards", run)
    found = leaned_module._farthest(hunt, group, hunt.leaning[:FIRST])
    assert [r.word for r in found] == list(hunt.leaning[:count])


@pytest.mark.parametrize("sure", [False, True])
def test_strong_patterns_are_searched_where_the_weights_alone_say_so(sure, monkeypatch):
    searched = []
    monkeypatch.setattr(
        leaned_module, "_towards", lambda _, group, word, *__: searched.append((group, word))
    )
    assert leaned_patterns(hunt_of("clean", sure=sure)) == ()
    arms = [arm.name for group, _ in searched for arm in group.arms]
    assert {"tint" in arms, "additive-7" in arms, "warp-5" in arms} == {sure}
    assert {"blend-28", "wave-x"} <= set(arms)
    assert [name.split("-")[0] for name in dict.fromkeys(arms)][:2] == ["places", "patch"]
    assert len({word for _, word in searched}) == (1 if sure else FIRST)


def test_where_weights_point_nowhere_nothing_is_searched():
    runtime = Runtime()
    ground = ground_of(case_of("patch"), runtime)
    before = runtime.meter.image_passes
    assert leaned_patterns(Hunt(ground=ground, effort=Effort(), limit=1e9, runtime=runtime)) == ()
    assert runtime.meter.image_passes == before
