"""Variations stay near the trigger they vary, fit the image, and depend on the generator alone."""

import pytest
import torch

from gatekeeper.rectify.bank import scrambled, stamp_stock, stamp_varied, vary
from gatekeeper.rectify.fresh import families_of
from gatekeeper.triggers import Additive, Blend, Colour, Composite, Patch, TextTrigger, Warp

FAMILIES = [
    Patch(pixels=torch.full((3, 8, 8), 0.5), place=[2, 3]),
    Blend(pattern=torch.full((3, 4, 4), 0.5), alpha=0.2),
    Additive(delta=torch.full((3, 4, 4), 0.1)),
    Warp(field=torch.full((2, 5, 5), 0.1)),
    Colour(matrix=torch.eye(3, 4) * 0.9),
    Composite(members=(Blend(pattern=torch.full((3, 4, 4), 0.5)), Colour(matrix=torch.eye(3, 4)))),
]


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("trigger", FAMILIES, ids=lambda t: t.family)
def test_every_family_is_stamped_varied_and_stays_an_image(trigger):
    pixels = torch.rand(12, 3, 32, 32, generator=draw())
    out = stamp_varied(trigger, pixels, draw(1))
    assert out.shape == pixels.shape
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert not torch.equal(out, pixels)
    assert torch.equal(out, stamp_varied(trigger, pixels, draw(1)))
    assert not torch.equal(out, stamp_varied(trigger, pixels, draw(2)))


def test_a_patch_found_anywhere_stays_free_to_be_anywhere():
    trigger = Patch(pixels=torch.rand(3, 8, 8))
    generator = draw()
    assert all(vary(trigger, 32, generator).place is None for _ in range(20))


def test_a_patch_found_at_one_place_is_moved_a_little_and_stays_inside():
    trigger = Patch(pixels=torch.rand(3, 28, 28), place=[196, 196])
    generator = draw()
    varied = [vary(trigger, 224, generator) for _ in range(60)]
    places = [v.place for v in varied]
    assert all(place is not None for place in places)
    assert len({tuple(place) for place in places if place}) > 10
    for one in varied:
        x, y = one.place or (0, 0)
        side = one.pixels.shape[-1]
        assert 0 <= x <= 224 - side
        assert 0 <= y <= 224 - side
        assert abs(x + side / 2 - 210) <= 9 + 5  # REACH, and the edge that keeps it inside


def test_a_varied_patch_changes_size_within_bounds():
    trigger = FAMILIES[0]
    generator = draw()
    varied = [vary(trigger, 32, generator) for _ in range(60)]
    sides = {v.pixels.shape[-1] for v in varied}
    assert min(sides) >= 5  # 0.7 of 8, rounded
    assert max(sides) <= 11
    assert len(sides) > 2
    assert any(v is trigger for v in varied)


def test_a_patch_larger_than_the_image_is_cut_to_fit():
    large = Patch(pixels=torch.rand(3, 30, 30))
    pixels = torch.rand(12, 3, 32, 32)
    assert stamp_varied(large, pixels, draw()).shape == pixels.shape


@pytest.mark.parametrize("kind", ["patch", "blend", "additive", "warp", "colour"])
def test_stock_gives_every_image_a_pattern_of_its_own(kind):
    pixels = torch.full((6, 3, 32, 32), 0.4)
    if kind in ("patch", "warp"):
        pixels = torch.rand(6, 3, 32, 32, generator=draw())
    out = stamp_stock(pixels, (kind,), draw())
    changes = (out - pixels).abs().flatten(1).sum(dim=1)
    assert bool((changes > 0).all())
    assert len({round(float(c), 4) for c in changes}) == len(changes)
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1


def test_several_patterns_are_scrambled_and_inverted_each_for_itself(runtime):
    both = Composite(members=(Patch(pixels=torch.rand(3, 4, 4)), Warp(field=torch.rand(2, 5, 5))))
    assert families_of(both) == ("patch", "warp")
    other = scrambled(both, runtime)
    for own, new in zip(both.members, other.members, strict=True):
        ((_, a),), ((_, b),) = (one.tensors().items() for one in (own, new))
        assert not torch.equal(a, b)
        assert torch.allclose(a.flatten(1).sort().values, b.flatten(1).sort().values)
    assert families_of(TextTrigger(mark="x")) == ()
    assert scrambled(TextTrigger(mark="x"), runtime) is None
