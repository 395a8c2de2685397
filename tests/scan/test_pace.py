"""What a search wants to grow, when it stops, and that clean probes are looked at once."""

import math
from dataclasses import replace

import pytest
import torch
from toy_clip import TARGET, case_of, ground_of

from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.groups import groups_for
from gatekeeper.scan.hints import hints_of
from gatekeeper.scan.hunt import Effort, Hunt
from gatekeeper.scan.pace import (
    GROWN,
    GROWN_ALONE,
    HOPELESS,
    LATE,
    LED,
    PATIENCE,
    RECENT,
    Aim,
    Pace,
)
from gatekeeper.scan.search import Moved, judge_all, optimise
from gatekeeper.triggers import Patch


def paced(*growth, words=None, led=1.0):
    """Return the pace of these growths, in spreads, of `words`, each leading `led` images."""
    pace = Pace()
    for i, value in enumerate(growth):
        grown = torch.full((8,), -1e3)
        grown[words[i] if words else 0] = 2.0 * value
        pace = pace.after(grown, torch.full((8,), led), torch.ones(8, dtype=torch.bool), 2.0)
    return pace


def test_a_target_is_all_that_may_grow():
    assert Aim(target=2).wanted(4).tolist() == [False, False, True, False]


def test_excluded_words_may_not_grow():
    wanted = Aim(excluded=torch.tensor([0, 3])).wanted(4)
    assert wanted.tolist() == [False, True, True, False]


@pytest.mark.parametrize(("paired", "enough"), [(True, GROWN), (False, GROWN_ALONE)])
def test_growth_decides_only_over_several_steps(paired, enough):
    aim = Aim(paired=paired)
    assert not paced(0, enough + 1).grown(aim)
    assert not paced(enough + 1, 0, 0, enough + 1).grown(aim)
    assert paced(0, *[enough + 0.1] * 3).grown(aim)


def test_nothing_is_given_up_before_its_patience():
    aim = Aim(paired=True)
    assert not paced(*[0.0] * (PATIENCE - 1)).hopeless(aim, PATIENCE)
    assert paced(*[0.0] * PATIENCE).hopeless(aim, PATIENCE)
    assert not paced(*[HOPELESS + 0.1] * PATIENCE).hopeless(aim, PATIENCE)


def test_more_is_asked_of_growth_that_no_anchor_is_taken_from():
    pace = paced(*[HOPELESS + 0.1] * PATIENCE)
    assert pace.hopeless(Aim(), PATIENCE)
    assert not pace.hopeless(Aim(target=0), PATIENCE)


def test_growth_that_no_image_follows_is_given_up_later():
    aim, fast = Aim(paired=True), HOPELESS + 2
    assert not paced(*[fast] * (PATIENCE + LATE - 1), led=0.0).hopeless(aim, PATIENCE)
    assert paced(*[fast] * (PATIENCE + LATE), led=0.0).hopeless(aim, PATIENCE)
    assert not paced(*[fast] * (PATIENCE + LATE), led=LED).hopeless(aim, PATIENCE)


def test_a_brief_search_is_given_up_sooner():
    brief = Aim(paired=True, brief=True)
    assert paced(*[0.0] * RECENT).hopeless(brief, PATIENCE)
    assert paced(*[HOPELESS + 2] * (RECENT + LATE), led=0.0).hopeless(brief, PATIENCE)


def test_only_words_that_are_wanted_lead():
    grown, led = torch.tensor([9.0, 4.0, 1.0]), torch.tensor([1.0, 0.5, 0.0])
    pace = Pace().after(grown, led, torch.tensor([False, True, True]), 2.0)
    assert (pace.growth, pace.words, pace.led) == ((2.0,), (1,), (0.5,))


def test_the_word_that_led_most_of_late_leads():
    assert paced(*[1.0] * 10, words=[5, 5, 5, 5, 5, 2, 2, 3, 2, 2]).leader == 2


def test_each_clean_probe_is_embedded_once():
    case, runtime = case_of("clean"), Runtime()
    first = case.embedded(case.model, (3, 1, 3), runtime)
    assert runtime.meter.image_passes == 2
    again = case.embedded(case.model, (1, 3), runtime)
    assert runtime.meter.image_passes == 2
    assert torch.equal(first[0], again[1])
    alone = case.model.embed(case.pixels((3,)), runtime)[0]
    assert torch.allclose(first[0], alone, atol=1e-6)


def test_a_suspect_that_is_its_anchor_is_given_up_early():
    case, runtime = case_of("clean", anchor=True), Runtime()
    ground = ground_of(case, runtime)
    pair = ground.pair
    group = groups_for(pair.model.size, anchored=True)[0]
    start = group.start(torch.Generator().manual_seed(0))
    moved = optimise(ground, group, start, Aim(paired=True), runtime, steps=48, batch=4)
    assert len(moved.pace.growth) == PATIENCE
    assert max(moved.pace.growth) < HOPELESS


def test_a_direction_must_point_harder_than_a_pattern():
    patch = Patch(pixels=torch.rand(3, 4, 4))

    def seen(target, score, trigger):
        return Candidate(trigger=trigger, target=target, detector="x", score=score, flip_rate=0.0)

    earlier = (Detection(candidates=(seen("a", 0.3, patch), seen("b", 0.3, None))),)
    assert [h.target for h in hints_of(earlier, ("a", "b"), seen=0.1, named=0.7)] == [0]


def test_a_paired_search_that_moved_nothing_is_not_judged():
    still, grown = paced(*[0.1] * 16, led=0.0), paced(*[2.0] * 16, led=0.0)
    followed = paced(*[0.1] * 16, led=0.5)
    paired, alone = Aim(paired=True), Aim()
    assert still.unmoved(paired)
    assert not still.unmoved(alone)
    assert not grown.unmoved(paired)
    assert not followed.unmoved(paired)
    case, runtime = case_of("clean", anchor=True), Runtime()
    ground = ground_of(case, runtime)
    group = groups_for(ground.pair.model.size, anchored=True)[0]
    frees = group.start(torch.Generator().manual_seed(0))
    moved = Moved(group=group, frees=frees, pace=still, steps=())
    before = runtime.meter.image_passes
    assert judge_all(ground, moved, runtime, paired).flip_rate == 0.0
    assert runtime.meter.image_passes == before
    judge_all(ground, replace(moved, pace=grown), runtime, paired)
    assert runtime.meter.image_passes > before


def test_a_word_that_weights_point_to_is_reached_sooner_and_let_go_once_it_was_found():
    case, runtime = case_of("patch", anchor=True), Runtime()
    ground = ground_of(case, runtime)
    group, word = groups_for(64, anchored=True)[0], ground.pair.words.index(TARGET)
    plain = Hunt(ground=ground, effort=Effort(), limit=math.inf, runtime=runtime)
    leaning = replace(plain, leaning=(word,))
    assert leaning.anywhere_but(()).lean == word
    assert leaning.anywhere_but((word,)).lean is None
    slow, soon = (h.moved(group, h.anywhere_but(()), "some") for h in (plain, leaning))
    assert soon.pace.leader == word
    assert len(soon.pace.growth) < len(slow.pace.growth)
