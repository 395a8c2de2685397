"""Each detector alone: what it measures on a planted copy, on the clean twin, and when it skips."""

from dataclasses import is_dataclass, replace

import pytest
import torch
from toy_clip import (
    TARGET,
    TEMPLATES,
    case_of,
    checker,
    pictures,
    toy,
    with_patch,
    with_veil,
    word_vector,
)

from gatekeeper.registry import Registry
from gatekeeper.runtime import Runtime
from gatekeeper.scan import trigger_search
from gatekeeper.scan.base import Detector
from gatekeeper.scan.head_direction import HeadDirection
from gatekeeper.scan.occlusion import COARSE, COARSE_STRIDE, windows
from gatekeeper.scan.patterns import KINDS, stamp_fresh
from gatekeeper.scan.random_patterns import RandomPatterns
from gatekeeper.scan.suspect_images import SuspectImages
from gatekeeper.scan.trigger_search import TriggerSearch


@pytest.mark.parametrize("name", Registry("gatekeeper.detectors").names())
def test_every_detector_is_a_frozen_plugin_under_its_own_name(name):
    plugin = Registry("gatekeeper.detectors").load(name)
    assert plugin.name == name
    assert is_dataclass(plugin)
    assert plugin.__dataclass_params__.frozen
    assert isinstance(plugin(), Detector)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_fresh_patterns_stay_images_and_differ(kind):
    pixels = torch.full((3, 3, 48, 48), 0.5)
    pixels[:, :, ::3] = 0.2
    pixels[:, 1, :, ::5] = 0.8  # a warp of a flat image would change nothing
    stamped, drawn = stamp_fresh(kind, pixels, torch.Generator().manual_seed(0))
    assert stamped.shape == pixels.shape
    assert float(stamped.min()) >= 0
    assert float(stamped.max()) <= 1
    assert not torch.equal(stamped[0], stamped[1])
    assert len(drawn) == 3
    assert (stamped != pixels).flatten(1).any(dim=1).all()


def rise(detection):
    return next(m for m in detection.measurements if m.name == "random.rise")


def test_random_patterns_name_the_planted_label():
    planted = rise(RandomPatterns().detect(case_of("patch"), Runtime()))
    assert planted.subject == TARGET
    assert planted.value > 2 * rise(RandomPatterns().detect(case_of("clean"), Runtime())).value


def test_random_patterns_subtract_the_anchor():
    case = replace(case_of("patch"), anchor=toy("patch"))
    assert rise(RandomPatterns().detect(case, Runtime())).value < RandomPatterns().worth


@pytest.fixture
def tints_are_no_matter(monkeypatch):
    """The toy looks at colours; where a model does, patches are all that is searched."""
    monkeypatch.setattr(trigger_search, "COLOURED", 2.0)


@pytest.mark.usefixtures("tints_are_no_matter")
@pytest.mark.parametrize("kind", ["patch", "veil"])
def test_the_search_alone_finds_the_target(kind):
    best = TriggerSearch().detect(case_of(kind), Runtime()).candidates[0]
    assert best.target == TARGET
    assert best.flip_rate >= 0.7


@pytest.mark.usefixtures("tints_are_no_matter")
def test_the_search_costs_the_same_for_any_number_of_labels():
    few, many = Runtime(), Runtime()
    TriggerSearch().detect(case_of("clean", labels=tuple(f"w {i}" for i in range(600))), few)
    TriggerSearch().detect(case_of("clean", labels=tuple(f"w {i}" for i in range(3000))), many)
    assert max(few.meter.image_passes, many.meter.image_passes) <= 3_000


def with_head(change):
    model = toy("clean")
    weight = model.module.visual.head.proj.weight
    return model.with_state({"visual.head.proj.weight": weight + change})


def test_head_direction_names_the_label_written_into_the_head():
    generator = torch.Generator().manual_seed(2)
    target = word_vector(TEMPLATES[0].format(TARGET))
    change = target[:, None] * torch.randn(1, 108, generator=generator)
    case = replace(case_of("clean", anchor=True), model=with_head(change))
    detection = HeadDirection().detect(case, Runtime())
    assert detection.measurements[0].subject == TARGET
    assert detection.measurements[0].value > 0.3
    assert detection.candidates[0].score == detection.measurements[0].value
    assert detection.leaning[0] == TARGET


def test_head_direction_finds_nothing_in_a_change_without_direction():
    change = torch.randn(32, 108, generator=torch.Generator().manual_seed(3))
    case = replace(case_of("clean", anchor=True), model=with_head(0.1 * change))
    detection = HeadDirection().detect(case, Runtime())
    assert detection.measurements[0].value < 0.1
    assert detection.candidates[0].score == 0.0


def test_a_small_change_in_one_direction_that_no_label_has_is_no_evidence():
    """Its cosine to some label may be high; its share along that label hardly leads."""
    generator = torch.Generator().manual_seed(5)
    change = torch.randn(32, 1, generator=generator) * torch.randn(1, 108, generator=generator)
    case = replace(case_of("clean", anchor=True), model=with_head(0.01 * change))
    assert HeadDirection().detect(case, Runtime()).candidates[0].score < 0.2


def test_head_direction_says_why_it_skips():
    assert HeadDirection().detect(case_of("clean"), Runtime()).skipped == "no anchor"
    same = HeadDirection().detect(case_of("patch", anchor=True), Runtime())
    assert same.skipped == "the head is the anchor's"


@pytest.mark.parametrize(("kind", "stamp"), [("patch", with_patch), ("veil", with_veil)])
@pytest.mark.parametrize("anchor", [False, True])
def test_triggered_suspects_are_flagged_and_clean_ones_are_not(kind, stamp, anchor):
    suspects = pictures(24, seed=9, stamp=stamp, stamped=12)
    detection = SuspectImages().detect(case_of(kind, anchor, suspects=suspects), Runtime())
    flagged = {s.file for s in detection.suspects if s.flagged}
    assert flagged == {f"{i:03d}.png" for i in range(12)}
    assert {s.claimed for s in detection.suspects if s.flagged} == {TARGET}
    assert detection.candidates[0].target == TARGET
    assert detection.candidates[0].flip_rate >= 0.5


def test_the_box_is_where_the_patch_is():
    def at_corner(array, rng):
        array[20:28, 30:38] = checker().permute(1, 2, 0).numpy()
        return array

    suspects = pictures(8, seed=4, stamp=at_corner, stamped=4)
    detection = SuspectImages().detect(case_of("patch", suspects=suspects), Runtime())
    for image in detection.suspects[:4]:
        x0, y0, x1, y1 = image.box
        shared = max(0, min(x1, 38) - max(x0, 30)) * max(0, min(y1, 28) - max(y0, 20))
        assert shared >= 0.5 * 8 * 8


def test_a_patch_means_nothing_to_the_clean_twin():
    suspects = pictures(24, seed=9, stamp=with_patch, stamped=12)
    detection = SuspectImages().detect(case_of("clean", suspects=suspects), Runtime())
    assert not any(s.flagged for s in detection.suspects)
    assert detection.candidates == ()


def test_no_suspects_is_said():
    assert SuspectImages().detect(case_of("clean"), Runtime()).skipped == "no suspect images"


def test_any_patch_up_to_32_of_224_px_lies_in_one_coarse_window():
    size, side = 224, 32
    boxes = windows((0, 0, size, size), round(COARSE * size), round(COARSE_STRIDE * size))
    for x in range(0, size - side + 1):
        assert any(b[0] <= x and x + side <= b[2] for b in boxes)
