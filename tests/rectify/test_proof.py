"""A repair that changed nothing cannot be proven; a real one can, from few images of any kind."""

from dataclasses import replace

import pytest
import torch

from gatekeeper.case import Case
from gatekeeper.errors import RectifyError, UtilityLostError
from gatekeeper.rectify.base import Ailment, Prescription, Rectified
from gatekeeper.rectify.compact import CompactFineTuning
from gatekeeper.rectify.limits import at_least, at_most, check_proof
from gatekeeper.rectify.persistence import LOOKS, REACH, SHARES, returns_at, scrambled
from gatekeeper.rectify.proof import prove
from gatekeeper.triggers import Blend, Colour, Patch
from gatekeeper.types import Proof, Quality

TEMPLATES = ("a photo of a {}.",)
IMAGES = 64


def case_of(model, probes, labels) -> Case:
    return Case(
        model=model,
        anchor=None,
        probes=probes,
        suspects=None,
        oracle=None,
        labels=labels,
        templates=TEMPLATES,
    )


def prescribe(planted) -> Prescription:
    return Prescription(
        ailments=(Ailment(target=planted.target, trigger=planted.trigger),),
        affected=(planted.target,),
        victims=(),
        probes=(),
    )


@pytest.fixture(scope="module")
def few(shapes_training):
    """The fewest images that a repair is promised to work from."""
    return shapes_training.subset(range(IMAGES))


@pytest.fixture(scope="module")
def mended(planted, few, shape_labels, runtime):
    case = case_of(planted.model, few, shape_labels)
    return case, CompactFineTuning(inversions=0).rectify(case, prescribe(planted), runtime)


@pytest.fixture(scope="module")
def proved(planted, mended, runtime):
    case, repaired = mended
    return prove(case, prescribe(planted), repaired, runtime)


def by_name(record: Proof):
    return {check.id: check for check in record.checks}


def test_a_repair_from_64_images_is_tried_on_those_it_has_not_learned_from(mended, proved):
    _, repaired = mended
    assert proved.record.images == IMAGES - len(repaired.learned) == 16
    assert [point.at for point in proved.record.rebound] == [0, *LOOKS]
    assert [point.at for point in proved.record.path] == list(SHARES)
    checks = by_name(proved.record)
    assert checks["other_prompts"].before >= 0.9  # the plant works with any prompt
    assert checks["rebound"].after <= checks["other_prompts"].before / 2
    assert checks["near_trigger"].ok
    assert checks["recall_5"].ok
    assert checks["alignment"].ok
    assert proved.rebound == checks["rebound"].after


def test_same_seed_same_proof(planted, mended, proved, runtime):
    case, repaired = mended
    again = prove(case, prescribe(planted), repaired, runtime)
    assert again.record == proved.record
    assert again.replies == proved.replies


def test_a_reviewer_sees_images_that_the_suspect_was_led_astray_on(planted, proved):
    assert proved.replies
    for reply in proved.replies:
        assert reply.suspect[0] != planted.target
        assert reply.suspect[1] == planted.target
        assert reply.clean_png.startswith(b"\x89PNG")
        assert reply.clean_png != reply.triggered_png


def test_a_repair_that_changed_nothing_cannot_be_proven(planted, few, shape_labels, runtime):
    case = case_of(planted.model, few, shape_labels)
    name, value = next(iter(planted.model.state_dict().items()))
    sham = Rectified(
        method="sham", state={name: value.clone()}, images_used=48, steps=0,
        before=Quality(
            clean_accuracy=1, attack_success=1, recovered_accuracy=0, agreement=1, rebound=None
        ),
        after=Quality(
            clean_accuracy=1, attack_success=0, recovered_accuracy=1, agreement=1, rebound=None
        ),
        learned=tuple(range(48)),
    )  # fmt: skip
    proved = prove(case, prescribe(planted), sham, runtime)
    failed = {check.id for check in proved.record.failed}
    assert {"rebound", "path", "near_trigger", "recovery", "other_prompts"} <= failed
    assert proved.begun
    assert proved.returned[0].target == planted.target
    moved = proved.returned[0].trigger.pixels - planted.trigger.pixels
    assert moved.abs().max() <= REACH + 1e-6
    with pytest.raises(RectifyError, match="not proven on 16 images") as caught:
        check_proof(proved.record, sham)
    assert caught.value.rejected is sham


@pytest.mark.parametrize("kind", ["captions", "neither"])
def test_captions_do_and_so_do_bare_images(planted, mended, few, shape_labels, runtime, kind):
    bare = [replace(probe, label=None) for probe in few.probes]
    if kind == "captions":
        bare = [
            replace(new, caption=f"a picture of a {old.label}")
            for new, old in zip(bare, few.probes, strict=True)
        ]
    case = case_of(planted.model, replace(few, probes=tuple(bare), _pixels={}), shape_labels)
    repaired = CompactFineTuning(inversions=0).rectify(case, prescribe(planted), runtime)
    proved = prove(case, prescribe(planted), repaired, runtime)
    checks = by_name(proved.record)
    assert checks["recall_1"].n <= 16
    assert checks["rebound"].after <= checks["other_prompts"].before / 2
    assert checks["recovery"].after < checks["recovery"].before


def test_without_a_trigger_only_what_was_kept_is_proven(tiny_clip, few, shape_labels, runtime):
    case = case_of(tiny_clip, few, shape_labels)
    nothing = Prescription(ailments=(), affected=(), victims=(), probes=())
    repaired = CompactFineTuning().rectify(case, nothing, runtime)
    proved = prove(case, nothing, repaired, runtime)
    assert not proved.record.failed
    assert not proved.record.rebound
    assert proved.rebound is None
    assert "no trigger" in proved.record.notes[0]


def test_a_method_that_does_not_tell_what_it_learned_from_is_noted(planted, mended, runtime):
    case, repaired = mended
    proved = prove(case, prescribe(planted), replace(repaired, learned=()), runtime)
    assert proved.record.images == IMAGES
    assert "does not say" in proved.record.notes[0]


def test_lost_worth_alone_is_told_from_a_trigger_that_comes_back(mended):
    _, repaired = mended
    lost = at_least("recall_1", "Recall at 1", 0.9, 0.5, 0.87, 50)
    back = at_most("rebound", "Attack success", None, 0.3, 0.05, 50)
    for checks, kind in (((lost,), UtilityLostError), ((lost, back), RectifyError)):
        with pytest.raises(RectifyError) as caught:
            check_proof(Proof(checks=checks, rebound=(), path=(), images=50), repaired)
        assert type(caught.value) is kind


def test_a_way_back_is_as_long_as_the_first_share_at_which_the_trigger_works():
    assert returns_at(((0.1, 0.2), (0.2, 0.6), (0.3, 0.9))) == 0.2
    assert returns_at(((0.1, 0.2), (0.2, 0.3))) == 1.0


@pytest.mark.parametrize(
    "trigger",
    [
        Patch(pixels=torch.rand(3, 6, 6)),
        Blend(pattern=torch.rand(3, 8, 8)),
        Colour(matrix=torch.eye(3, 4) + 0.2 * torch.rand(3, 4)),
    ],
)
def test_a_scrambled_trigger_holds_the_same_values_in_another_order(trigger, runtime):
    (before,), (after,) = (one.tensors().values() for one in (trigger, scrambled(trigger, runtime)))
    assert not torch.equal(before, after)
    rest = torch.eye(3, 4) if isinstance(trigger, Colour) else 0.0
    own, new = ((x - rest).flatten(1).sort(dim=1).values for x in (before, after))
    assert torch.allclose(own, new, atol=1e-6)
