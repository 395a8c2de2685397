"""A patch that stays at one place is what photos never share: its pixels, whatever its size."""

import pytest
import torch
from toy_clip import TARGET, case_of, checker, pictures

from gatekeeper.runtime import Runtime
from gatekeeper.scan.fixed import bearers, shared_box, shared_pixels
from gatekeeper.scan.suspect_images import SuspectImages

SIDE = 48


def noise(count, seed):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def stamped(count, seed, side, x=5, y=20):
    pixels = noise(count, seed)
    pixels[:, :, y : y + side, x : x + side] = noise(1, 99)[0, :, :side, :side]
    return pixels


@pytest.mark.parametrize("side", [6, 12, 24])
def test_the_shared_pixels_are_boxed_whatever_their_size(side):
    box = shared_box(stamped(16, 1, side), noise(16, 2))
    assert box == (5, 20, 5 + side, 20 + side)


def test_a_few_honest_claimants_hide_nothing():
    mine = torch.cat([stamped(14, 1, 12), noise(3, 3)])
    box = shared_box(mine, noise(16, 2))
    assert box == (5, 20, 17, 32)
    assert bearers(mine, shared_pixels(mine, box), box) == [True] * 14 + [False] * 3


def test_different_images_share_nothing():
    assert shared_box(noise(16, 1), noise(16, 2)) is None


def test_what_all_images_share_is_no_mark_of_some():
    frame = stamped(32, 1, 24)
    assert shared_box(frame[:16], frame[16:]) is None


def test_one_and_the_same_image_is_no_patch():
    assert shared_box(noise(1, 1).expand(16, -1, -1, -1), noise(16, 2)) is None


def test_a_fixed_patch_is_found_on_every_image_that_bears_it():
    def at_corner(array, rng):
        array[2:10, 3:11] = checker().permute(1, 2, 0).numpy()
        return array

    suspects = pictures(24, seed=9, stamp=at_corner, stamped=12)
    found = SuspectImages().detect(case_of("patch", suspects=suspects), Runtime())
    assert [s.flagged for s in found.suspects] == [True] * 12 + [False] * 12
    assert {s.box for s in found.suspects[:12]} == {(3, 2, 11, 10)}
    (candidate,) = found.candidates
    assert candidate.target == TARGET
    assert candidate.trigger.place == [3, 2]
    assert candidate.flip_rate >= 0.9
