"""What a group does together counts where no piece of it does as much, pruned to what it takes."""

import pytest
import torch
from toy_clip import case_of, ground_of

from gatekeeper.runtime import Runtime
from gatekeeper.scan.groups import LED, groups_for, windows
from gatekeeper.scan.places import Places, Windows
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
    assert again.picture().shape == (3, 12, 12)  # holds the patch at 2, 7


@pytest.mark.parametrize("size", [64, 224, 336])
def test_a_picture_is_as_large_as_the_images_that_its_patches_lie_on(size):
    patches = groups_for(size, anchored=True)[0]
    whole = patches.trigger(patches.start(torch.Generator().manual_seed(0)), size)
    assert whole.picture().shape == (3, size, size)


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


def test_patches_at_all_places_leave_most_of_every_image():
    shown = Places(patches=torch.ones(5, 3, 8, 8)).stamp(torch.zeros(2, 3, 64, 64))
    assert float(shown[:, 0].mean()) == pytest.approx(5 / 64)
    assert shown[0, 0, 0, 0] == shown[0, 0, 63, 63] == shown[0, 0, 32, 32] == 1


def test_each_image_shows_a_window_and_all_windows_cover_every_place():
    draw = torch.Generator().manual_seed(0)
    shown = Windows(pixels=torch.ones(3, 64, 64)).stamp(torch.zeros(64, 3, 64, 64), draw)[:, 0]
    assert (shown.mean(dim=(1, 2)) == 0.25).all()
    assert (shown.amax(dim=0) == 1).all()
    for x, y in ((5, 11), (20, 6), (31, 48), (47, 47)):  # any patch of a quarter of the side
        assert shown[:, y : y + 16, x : x + 16].mean(dim=(1, 2)).max() == 1


def test_windows_are_taken_to_patches_and_are_no_trigger_themselves():
    group = windows(64)
    frees = group.start(torch.Generator().manual_seed(0))
    parts = group.parts(frees, 64)
    assert len(parts) == 49
    assert {arm.side for arm, _ in parts} == {16}
    arm, free = parts[-1]
    assert arm.place == (48, 48)
    assert torch.equal(free, frees[0][:, 48:, 48:])
    assert group.usual == LED > 0
    assert not group.together
    assert all(g.together for g in groups_for(64, anchored=True))


def test_exchanged_twice_is_the_same_ground():
    case, runtime = case_of("clean", anchor=True), Runtime()
    ground = ground_of(case, runtime)
    pair = ground.pair
    other = ground.exchanged()
    assert other.pair.model is pair.anchor
    assert torch.equal(other.judges.before, ground.judges.anchor_before)
    assert other.exchanged().pair.model is pair.model
