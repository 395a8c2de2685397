"""What a group does together counts where no piece of it does as much, pruned to what it takes."""

import pytest
import torch
from toy_clip import case_of, ground_of

from gatekeeper.runtime import Runtime
from gatekeeper.scan.groups import LED, groups_for, wide_places
from gatekeeper.scan.places import IN_TURN, Places
from gatekeeper.triggers import Blend, Composite, Patch, load_trigger, save_trigger


@pytest.fixture(scope="module")
def composite():
    draw = torch.Generator().manual_seed(3)
    return Composite(
        members=(
            Patch(pixels=torch.rand(3, 5, 4, generator=draw), place=[2, 7]),
            Blend(pattern=torch.rand(3, 6, 6, generator=draw), alpha=0.3),
            Patch(pixels=torch.rand(3, 3, 3, generator=draw)),
        )
    )


def test_members_are_put_on_in_order(composite):
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    expected = images
    draw = torch.Generator().manual_seed(5)
    for member in composite.members:
        expected = member.stamp(expected, draw)
    assert torch.equal(composite.stamp(images, torch.Generator().manual_seed(5)), expected)


def test_it_comes_back_from_its_file(composite, tmp_path):
    save_trigger(composite, tmp_path / "trigger.safetensors")
    again = load_trigger(tmp_path / "trigger.safetensors")
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    one, other = (t.stamp(images, torch.Generator().manual_seed(5)) for t in (composite, again))
    assert torch.allclose(one, other)
    assert again.picture().shape == (3, 224, 224)


def test_the_last_of_two_is_itself(composite):
    less = composite.without(composite.members[1])
    assert [m.family for m in less.members] == ["patch", "patch"]
    assert less.without(less.members[0]) is composite.members[2]


def test_a_group_of_one_is_its_arm_s_trigger_and_places_are_patches_of_their_own():
    patches, _, tints, _ = groups_for(64, anchored=True)
    draw = torch.Generator().manual_seed(0)
    assert tints.trigger(tints.start(draw), 64).family == "colour"
    together = patches.trigger(patches.start(draw), 64)
    assert [m.family for m in together.members] == ["patch"] * 7
    assert [m.place for m in together.members].count(None) == 2


def test_places_in_turn_leave_most_of_every_image():
    pixels = torch.zeros(4, 3, 64, 64)
    places = Places(patches=torch.ones(9, 3, 16, 16), turns=IN_TURN)
    covered = (places.stamp(pixels)[:, 0] > 0).float().mean(dim=(1, 2))
    assert covered.tolist() == pytest.approx([4 / 16, 5 / 16, 4 / 16, 5 / 16])
    union = (places.stamp(pixels)[:, 0] > 0).any(dim=0)
    assert float(union.float().mean()) == pytest.approx(9 / 16)
    at = [tuple(patch.place) for patch in places.apart(64)]
    assert len(set(at)) == 9
    assert (0, 0) in at
    assert (24, 24) in at


def test_each_wide_place_is_a_search_of_its_own_and_less_usual_rates_count():
    group = wide_places(64)
    frees = group.start(torch.Generator().manual_seed(0))
    assert len(group.parts(frees, 64)) == 9
    assert group.usual == LED > 0


def test_exchanged_twice_is_the_same_ground():
    case, runtime = case_of("clean", anchor=True), Runtime()
    ground = ground_of(case, runtime)
    pair = ground.pair
    other = ground.exchanged()
    assert other.pair.model is pair.anchor
    assert torch.equal(other.judges.before, ground.judges.anchor_before)
    assert other.exchanged().pair.model is pair.model
