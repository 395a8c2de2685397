"""Where a model makes nothing of the probes, a scan says so and gives no score."""

import pytest
import torch
from shape_world import TEMPLATES
from toy_clip import case_of, toy

from gatekeeper.case import Case
from gatekeeper.probes.embedded import embedded_probes
from gatekeeper.probes.nouns import nouns
from gatekeeper.runtime import Runtime
from gatekeeper.scan.basics import ALIKE, STEADY, far, judge_clean, strange
from gatekeeper.scan.run import scan
from gatekeeper.types import Measurement


def case(model, probes, labels, anchor=None) -> Case:
    return Case(
        model=model,
        anchor=anchor,
        probes=probes,
        suspects=None,
        oracle=None,
        labels=labels,
        templates=TEMPLATES,
    )


def values(case) -> dict[str, float]:
    return {row.name: row.value for row in judge_clean(case, Runtime())}


@pytest.fixture
def blind():
    """A model that embeds every image alike."""
    model = toy()
    model.module.visual.head.proj.weight.data.zero_()
    model.module.image = lambda x: torch.eye(32)[:1].expand(len(x), -1) + 0 * x.mean()
    return model


def test_on_images_of_its_own_domain_answers_stay(tiny_clip, shapes, shape_labels):
    found = values(case(tiny_clip, shapes, shape_labels))
    assert found["clean.steadiness"] >= 0.75
    assert found["clean.alikeness"] < 0.9
    assert found["clean.accuracy"] >= 0.8


def test_on_photos_a_model_of_shapes_is_lost_and_so_is_the_scan(tiny_clip):
    foreign = case(tiny_clip, embedded_probes(), nouns()[:6000])
    assert values(foreign)["clean.steadiness"] < STEADY
    rows = judge_clean(foreign, Runtime())
    assert "--probes" in strange(rows, anchored=False)
    assert strange(rows, anchored=True) == ""


def test_one_answer_to_everything_is_no_clean_bill(blind):
    outcome = scan(case(blind, case_of("clean").probes, case_of("clean").labels), (), Runtime())
    assert outcome.score is None
    assert any(f.id == "strange-probes" and "alike" in f.message for f in outcome.findings)


@pytest.mark.parametrize(
    ("rows", "anchored", "fit"),
    [
        ({"clean.steadiness": STEADY, "clean.alikeness": ALIKE - 0.01}, False, True),
        ({"clean.steadiness": STEADY - 0.01}, False, False),
        ({"clean.steadiness": STEADY - 0.01}, True, True),
        ({"clean.alikeness": ALIKE}, True, False),
        ({}, False, True),
    ],
)
def test_the_bounds(rows, anchored, fit):
    made = [Measurement(name=name, value=value) for name, value in rows.items()]
    assert (strange(made, anchored=anchored) == "") is fit


@pytest.mark.parametrize(
    ("kept", "told"), [(0.34, True), (0.74, True), (0.75, False), (1.0, False)]
)
def test_an_anchor_that_the_suspect_has_left_accuses_nobody(kept, told):
    rows = (Measurement(name="clean.kept", value=kept),)
    assert bool(far(rows)) == told


def test_without_an_anchor_nothing_is_far():
    assert far(()) == ""
