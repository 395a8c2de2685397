"""Interpolation, negation and ablation: each does to the weights what it says."""

from dataclasses import replace

import pytest
import torch
from test_compact import TEMPLATES, accuracy

from gatekeeper.errors import RectifyError
from gatekeeper.rectify.ablate import Ablation, hijacked, leading
from gatekeeper.rectify.base import Prescription
from gatekeeper.rectify.ground import Ground
from gatekeeper.rectify.interpolate import Interpolation
from gatekeeper.rectify.negate import Negation
from gatekeeper.rectify.rehearsal import Rehearsal
from gatekeeper.triggers.invert import flip_rate

NOTHING = Prescription(ailments=(), affected=(), victims=(), probes=())


def fires(model, planted, shapes, labels, runtime) -> float:
    """The true trigger's success on images that no repair saw."""
    head = model.zero_shot(labels, TEMPLATES, runtime)
    place = head.labels.index(planted.target)
    return flip_rate(model, shapes.pixels(model.preprocess), planted.trigger, head, place, runtime)


def test_interpolation_goes_back_as_far_as_the_trigger_asks(
    sick, planted, tiny_clip, shapes, shape_labels, runtime
):
    case, prescription = sick
    made = Interpolation().rectify(replace(case, anchor=tiny_clip), prescription, runtime)
    cured = planted.model.with_state(made.state)
    assert fires(cured, planted, shapes, shape_labels, runtime) <= 0.1
    assert made.steps == 0
    assert made.before.attack_success >= 0.5
    assert accuracy(cured, shapes, shape_labels, runtime) >= 0.9
    assert any("kept" in note for note in made.notes)
    assert not any(name.startswith(("transformer", "token_embedding")) for name in made.state)


def test_interpolation_without_an_anchor_says_so(sick, runtime):
    with pytest.raises(RectifyError, match="needs an anchor"):
        Interpolation().rectify(*sick, runtime)


def test_ablation_takes_out_what_the_trigger_adds(sick, planted, shapes, shape_labels, runtime):
    case, prescription = sick
    made = Ablation().rectify(case, prescription, runtime)
    cured = planted.model.with_state(made.state)
    before = fires(planted.model, planted, shapes, shape_labels, runtime)
    assert fires(cured, planted, shapes, shape_labels, runtime) <= before - 0.4
    assert len(made.state) == 1, "without an anchor the last matrix alone is touched"
    assert accuracy(cured, shapes, shape_labels, runtime) >= 0.9


def test_ablation_with_an_anchor_undoes_part_of_the_change(
    sick, planted, tiny_clip, shapes, shape_labels, runtime
):
    case, prescription = sick
    made = Ablation().rectify(replace(case, anchor=tiny_clip), prescription, runtime)
    cured = planted.model.with_state(made.state)
    assert fires(cured, planted, shapes, shape_labels, runtime) <= 0.2
    assert any("directions of" in note for note in made.notes)
    before = accuracy(planted.model, shapes, shape_labels, runtime)
    assert accuracy(cured, shapes, shape_labels, runtime) >= before - 0.05


def test_hijacked_directions_are_those_that_clean_tuning_does_not_take():
    eye = torch.eye(6)
    change = torch.diag(torch.tensor([9.0, 8.0, 0.0, 0.0, 0.0, 0.0]))
    usual = torch.diag(torch.tensor([5.0, 0.0, 4.0, 0.0, 0.0, 0.0]))
    bad = hijacked(change, usual, 2, 50.0)
    assert bad.shape == (6, 1)
    assert abs(float(eye[1] @ bad[:, 0])) == pytest.approx(1, abs=1e-5)
    assert hijacked(change, change, 2, 50.0).shape == (6, 0)


def test_the_leading_differences_are_unit_and_upright():
    away = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)) + 3
    found = leading(away, 3)
    assert torch.allclose(found @ found.T, torch.eye(3), atol=1e-5)
    assert float(found[0] @ torch.nn.functional.normalize(away.mean(0), dim=0)) > 0.999


def test_negation_weakens_the_trigger_and_bears_clean_answers(
    sick, planted, shapes, shape_labels, runtime
):
    case, prescription = sick
    made = Negation(steps=25).rectify(case, prescription, runtime)
    assert made.after.attack_success < made.before.attack_success
    cured = planted.model.with_state(made.state)
    assert accuracy(cured, shapes, shape_labels, runtime) >= 0.85
    assert any("strength" in note for note in made.notes)


@pytest.mark.parametrize("method", [Negation(), Ablation()])
def test_without_a_trigger_there_is_nothing_to_take_out(sick, method, runtime):
    with pytest.raises(RectifyError, match="needs a trigger"):
        method.rectify(sick[0], NOTHING, runtime)


def test_a_trial_knows_the_suspect_from_the_clean_model(sick, tiny_clip, runtime):
    case, prescription = sick
    rehearsal = Rehearsal.of(Ground.of(case, prescription, runtime))
    assert rehearsal.success(case.model) >= 0.3
    assert rehearsal.success(tiny_clip) <= 0.1
    assert rehearsal.success(case.model, margin=1.0) >= rehearsal.success(case.model)
    assert rehearsal.lost(case.model) == 0
    assert rehearsal.bearable(tiny_clip)
