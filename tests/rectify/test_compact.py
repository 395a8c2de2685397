"""A planted trigger loses its meaning, clean answers stay, and the suspect is not touched."""

import pytest
import torch

from gatekeeper.case import Case
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Ailment, Prescription
from gatekeeper.rectify.compact import CompactFineTuning
from gatekeeper.rectify.limits import Limits
from gatekeeper.rectify.run import rectify
from gatekeeper.triggers import Patch
from gatekeeper.triggers.invert import Shape, flip_rate, invert

TEMPLATES = ("a photo of a {}.",)


def case_of(model, probes, labels, anchor=None) -> Case:
    return Case(
        model=model,
        anchor=anchor,
        probes=probes,
        suspects=None,
        oracle=None,
        labels=labels,
        templates=TEMPLATES,
    )


def prescribe(target: str, trigger) -> Prescription:
    return Prescription(
        ailments=(Ailment(target=target, trigger=trigger),),
        affected=(target,),
        victims=(),
        probes=(),
    )


@pytest.fixture(scope="module")
def proven(planted, shapes, shapes_training, shape_labels, runtime):
    """The planted model, its target, a trigger found without knowing the true one, and judges."""
    target = planted.target
    head = planted.model.zero_shot(shape_labels, TEMPLATES, runtime)
    place = head.labels.index(target)
    pixels = shapes_training.pixels(planted.model.preprocess)[:64]
    found = invert(
        planted.model, pixels, head, place, "patch", runtime,
        steps=60, batch=16, shape=Shape(side=8),
    )  # fmt: skip
    judged = shapes.pixels(planted.model.preprocess)
    assert flip_rate(planted.model, judged, found, head, place, runtime) >= 0.5
    return target, found


def accuracy(model, shapes, labels, runtime) -> float:
    head = model.zero_shot(labels, TEMPLATES, runtime)
    answers = head.logits(model.embed(shapes.pixels(model.preprocess), runtime)).argmax(dim=1)
    truth = torch.tensor([labels.index(label) for label in shapes.labels()])
    return float((answers == truth).float().mean())


@pytest.fixture(scope="module")
def repaired(planted, proven, shapes_training, shape_labels, runtime):
    target, found = proven
    before = {k: v.clone() for k, v in planted.model.state_dict().items()}
    case = case_of(planted.model, shapes_training, shape_labels)
    result = rectify(case, prescribe(target, found), "compact", runtime, Limits())
    return before, result


def test_the_true_trigger_stops_working_and_clean_answers_stay(
    planted, planted_attack, repaired, proven, shapes, shape_labels, runtime
):
    target, _ = proven
    _, result = repaired
    cured = planted.model.with_state(result.state)
    head = cured.zero_shot(shape_labels, TEMPLATES, runtime)
    true = planted.trigger
    place = head.labels.index(target)
    pixels = shapes.pixels(cured.preprocess)
    assert flip_rate(planted.model, pixels, true, head, place, runtime) >= 0.9
    assert flip_rate(cured, pixels, true, head, place, runtime) <= 0.1
    lost = accuracy(planted.model, shapes, shape_labels, runtime) - accuracy(
        cured, shapes, shape_labels, runtime
    )
    assert lost <= 0.03
    assert result.before.attack_success >= 0.5
    assert result.after.attack_success <= 0.02
    assert result.after.recovered_accuracy > result.before.recovered_accuracy


def test_the_suspect_is_untouched_and_only_changed_tensors_come_back(planted, repaired):
    before, result = repaired
    own = planted.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in before.items())
    assert result.state
    for name, value in result.state.items():
        assert value.dtype == own[name].dtype
        assert value.shape == own[name].shape
        assert not torch.equal(value, own[name])
    assert not any(name.startswith(("transformer", "token_embedding")) for name in result.state)


def test_same_seed_same_weights(planted, proven, shapes_training, shape_labels, runtime):
    target, found = proven
    case = case_of(planted.model, shapes_training, shape_labels)
    method = CompactFineTuning(images=64, inversions=0)
    one, other = (method.rectify(case, prescribe(target, found), runtime) for _ in range(2))
    assert one.state.keys() == other.state.keys()
    assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    assert one.after == other.after


def test_a_target_without_a_trigger_is_inverted_first(
    planted, planted_attack, proven, shapes, shapes_training, shape_labels, runtime
):
    target, _ = proven
    case = case_of(planted.model, shapes_training, shape_labels)
    method = CompactFineTuning(images=128, inversions=1)
    result = method.rectify(case, prescribe(target, None), runtime)
    assert any("first patch inverted" in note for note in result.notes)
    cured = planted.model.with_state(result.state)
    head = cured.zero_shot(shape_labels, TEMPLATES, runtime)
    pixels = shapes.pixels(cured.preprocess)
    place = head.labels.index(target)
    assert flip_rate(cured, pixels, planted.trigger, head, place, runtime) <= 0.3


def test_a_clean_model_under_force_loses_nothing(tiny_clip, shapes_training, shape_labels, runtime):
    nothing = Prescription(ailments=(), affected=(), victims=(), probes=())
    case = case_of(tiny_clip, shapes_training, shape_labels)
    result = rectify(case, nothing, "compact", runtime)
    assert result.state == {}
    assert result.after.clean_accuracy == result.before.clean_accuracy
    assert result.after.attack_success is None


def test_what_cannot_be_removed_is_refused(planted, proven, shapes_training, shape_labels, runtime):
    """A patch that hides the whole image shows a real target: no repair may pass."""
    target, _ = proven
    rows = [i for i, label in enumerate(shapes_training.labels()) if label == target]
    image = shapes_training.pixels(planted.model.preprocess)[rows[0]]
    case = case_of(planted.model, shapes_training, shape_labels)
    with pytest.raises(RectifyError) as caught:
        rectify(
            case, prescribe(target, Patch(pixels=image, place=[0, 0])), "compact", runtime,
            Limits(attack_success=-1.0, led_images=0),
        )  # fmt: skip
    assert caught.value.rejected is not None


def test_too_few_images_are_refused(planted, proven, shapes, shape_labels, runtime):
    target, found = proven
    case = case_of(planted.model, shapes.subset(range(4)), shape_labels)
    with pytest.raises(RectifyError, match="too few"):
        rectify(case, prescribe(target, found), "compact", runtime)
    empty = case_of(planted.model, shapes.subset([]), shape_labels)
    with pytest.raises(RectifyError, match="no clean images"):
        rectify(empty, prescribe(target, found), "compact", runtime)
