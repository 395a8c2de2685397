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
from gatekeeper.scan.hunt import Effort, Hunt
from gatekeeper.scan.leaned import LEANED, LOCAL, leaned_patterns
from gatekeeper.scan.outcome import bring_together
from gatekeeper.scan.run import Gathered
from gatekeeper.scan.shortcuts import STANDS_OUT, Shortcuts, best_of
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


def leaned(kind, first=TARGET):
    runtime = Runtime()
    ground = ground_of(case_of(kind), runtime)
    words = [ground.pair.words.index(word) for word in (first, *(w for w in LABELS if w != first))]
    return leaned_patterns(
        Hunt(ground=ground, effort=Effort(), limit=1e9, runtime=runtime, leaning=tuple(words))
    )


def test_a_planted_label_is_led_to_beyond_those_next_to_it():
    (found,) = leaned("patch")
    assert (found.target, found.detector) == (TARGET, LEANED)
    assert isinstance(found.trigger, Patch)
    assert found.score == pytest.approx(found.flip_rate - found.usual_flip_rate)
    assert found.score >= LOCAL


@pytest.mark.parametrize(("kind", "first"), [("clean", TARGET), ("patch", "thing 3")])
def test_no_other_is(kind, first):
    assert leaned(kind, first) == ()


@pytest.mark.parametrize("sure", [False, True])
def test_strong_patterns_are_searched_where_the_weights_alone_say_so(sure, monkeypatch):
    searched = []
    monkeypatch.setattr(leaned_module, "_towards", lambda _, group, __: searched.append(group))
    runtime = Runtime()
    ground = ground_of(case_of("clean"), runtime)
    hunt = Hunt(
        ground=ground, effort=Effort(), limit=1e9, runtime=runtime, leaning=(3, 4, 5), sure=sure
    )
    assert leaned_patterns(hunt) == ()
    arms = [arm.name for group in searched for arm in group.arms]
    assert ("tint" in arms, "additive-7" in arms) == (sure, sure)
    assert {"blend-28", "wave-x", "warp-5"} <= set(arms)


def test_where_weights_point_nowhere_nothing_is_searched():
    runtime = Runtime()
    ground = ground_of(case_of("patch"), runtime)
    before = runtime.meter.image_passes
    assert leaned_patterns(Hunt(ground=ground, effort=Effort(), limit=1e9, runtime=runtime)) == ()
    assert runtime.meter.image_passes == before
