"""A repair that leaves the trigger working, or loses what the model could, is rejected."""

from dataclasses import replace

import pytest
import torch

from gatekeeper.errors import RectifyError, UtilityLostError
from gatekeeper.rectify.base import Rectified
from gatekeeper.rectify.limits import Limits, check
from gatekeeper.types import Quality


def result(**after) -> Rectified:
    before = Quality(
        clean_accuracy=0.9,
        attack_success=1.0,
        recovered_accuracy=0.0,
        agreement=1.0,
        rebound=None,
    )
    values = {
        "clean_accuracy": 0.9,
        "attack_success": 0.0,
        "recovered_accuracy": 0.9,
        "agreement": 0.97,
        "rebound": 0.0,
    }
    return Rectified(
        method="compact",
        state={},
        before=before,
        after=Quality(**{**values, **after}),
        images_used=400,
        steps=80,
        held_out=100,
    )


def test_a_good_repair_is_let_through():
    check(result(), 100, Limits())
    check(result(attack_success=None, clean_accuracy=None), 100, Limits())


def test_a_trigger_that_still_works_is_refused_and_the_attempt_kept():
    bad = result(attack_success=0.05)
    with pytest.raises(RectifyError, match=r"5\.0%.*allowed: 2\.0%") as caught:
        check(bad, 100, Limits())
    assert caught.value.rejected is bad
    assert "anchor" in caught.value.hint


@pytest.mark.parametrize("lost", [{"clean_accuracy": 0.8}, {"agreement": 0.7}])
def test_lost_utility_is_refused(lost):
    with pytest.raises(UtilityLostError):
        check(result(**lost), 100, Limits())


def test_one_answer_of_few_images_is_no_loss_but_a_flipped_one_is_a_trigger():
    check(result(clean_accuracy=0.8), 10, Limits())  # one of ten
    with pytest.raises(UtilityLostError):
        check(result(clean_accuracy=0.6), 10, Limits())
    with pytest.raises(RectifyError):
        check(result(attack_success=0.1), 10, Limits())


def test_exactly_the_answers_allowed_are_no_loss_in_float32():
    two_of_fifty = float(torch.tensor(34 / 50, dtype=torch.float32))
    before = float(torch.tensor(36 / 50, dtype=torch.float32))
    made = result(clean_accuracy=two_of_fifty)
    check(replace(made, before=replace(made.before, clean_accuracy=before)), 50, Limits())


def test_one_led_image_of_fifty_is_no_trigger_but_two_are():
    check(result(attack_success=1 / 49), 50, Limits())
    with pytest.raises(RectifyError):
        check(result(attack_success=2 / 49), 50, Limits())
