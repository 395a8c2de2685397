"""What a trigger does to any model is held against none: neither images led, nor labels hidden."""

from dataclasses import replace

import pytest
import torch
from test_compact import TEMPLATES, case_of, prescribe

from gatekeeper.rectify.compact import CompactFineTuning
from gatekeeper.rectify.quality import HeldOut, attack_success, led_anyway, pays, predictions
from gatekeeper.rectify.repair import Repair
from gatekeeper.triggers import Warp
from gatekeeper.types import Quality


@pytest.fixture(scope="module")
def held(planted, shapes, shape_labels, runtime):
    """Judge images under the planted trigger, and the head that reads them."""
    head = planted.model.zero_shot(shape_labels, TEMPLATES, runtime)
    pixels = shapes.pixels(planted.model.preprocess)
    answers = predictions(planted.model, pixels, head, runtime)
    truth = torch.tensor([head.labels.index(label) for label in shapes.labels()])
    triggers = ((planted.trigger, head.labels.index(planted.target)),)
    found = HeldOut(pixels=pixels, known=truth, truth=truth, answers=answers, triggers=triggers)
    return found, head


def test_a_clean_anchor_excuses_next_to_nothing(planted, tiny_clip, held, shape_labels, runtime):
    images, head = held
    own = tiny_clip.zero_shot(shape_labels, TEMPLATES, runtime)
    excused = led_anyway(tiny_clip, own, images.pixels, images.triggers, runtime)
    assert float(excused[0].float().mean()) <= 0.2
    again = replace(images, excused=excused)
    assert attack_success(planted.model, again, head, runtime) >= 0.9


def test_what_leads_the_anchor_too_is_no_success(planted, held, runtime):
    images, head = held
    excused = led_anyway(planted.model, head, images.pixels, images.triggers, runtime)
    again = replace(images, excused=excused)
    assert not attack_success(planted.model, again, head, runtime)
    plain = again.under(*images.triggers[0])
    assert attack_success(planted.model, plain, head, runtime) >= 0.9


@pytest.mark.parametrize("anchored", [True, False])
def test_a_trigger_may_cost_what_hiding_as_much_costs(
    planted, tiny_clip, shapes_training, shape_labels, runtime, anchored
):
    anchor = tiny_clip if anchored else None
    case = case_of(planted.model, shapes_training.subset(range(64)), shape_labels, anchor)
    sick = prescribe(planted.target, planted.trigger)
    repair = Repair(CompactFineTuning(images=64), case, sick, runtime)
    for trigger, target in repair.ground.triggers:
        repair._add(trigger, target)
    (found,) = repair.found
    assert (found.usual is not None) is anchored
    if anchored:
        assert found.due <= 0.4
        assert repair._hurt() >= 0.4, "the suspect itself loses most labels"
    pixels = repair.curated.pixels
    strange = repair.fair.due(Warp(field=torch.zeros(2, 5, 5)), 0, pixels, repair.generator)
    assert strange[1] == pytest.approx(0, abs=0.05), "a warp that moves nothing costs nothing"


def test_training_pays_where_labels_come_back_and_no_clean_answer_goes():
    def worth(clean, back, agreement=1.0):
        return Quality(
            clean_accuracy=clean, attack_success=0.0, recovered_accuracy=back,
            agreement=agreement, rebound=None,
        )  # fmt: skip

    assert pays(worth(0.9, 0.6), worth(0.9, 0.7, agreement=0.8))
    assert not pays(worth(0.9, 0.6), worth(0.88, 0.9))
    assert not pays(worth(0.9, 0.6), worth(0.95, 0.6))
    assert not pays(worth(None, 0.6), worth(None, 0.7, agreement=0.8))
