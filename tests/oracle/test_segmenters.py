"""Every segmenter keeps the same promises."""

import numpy as np
import pytest
from colour_world import picture

from gatekeeper.errors import OracleError
from gatekeeper.oracle.base import Segmenter
from gatekeeper.oracle.cache import pack_regions, unpack_regions
from gatekeeper.oracle.regions import Regions
from gatekeeper.oracle.sam import Sam


@pytest.fixture(params=["regions", "sam"])
def segmenter(request):
    if request.param == "regions":
        return Regions()
    checkpoint = request.getfixturevalue("mobile_checkpoint")
    # drawn weights give masks of no merit: let them pass, and ask for few
    return Sam(checkpoint=checkpoint, points_per_side=2, least_iou=-9.0, least_stability=0.0)


def _same(one, other):
    return len(one) == len(other) and all(
        (a.mask == b.mask).all() and (a.box, a.score, a.kind) == (b.box, b.score, b.kind)
        for a, b in zip(one, other, strict=True)
    )


def test_it_keeps_the_protocol_and_answers_the_same_twice(segmenter, runtime):
    image = picture("red", side=96)
    assert isinstance(segmenter, Segmenter)
    assert segmenter.digest.startswith("sha256:")
    first = segmenter.regions(image, runtime)
    assert _same(first, segmenter.regions(image.copy(), runtime))
    for region in first:
        assert region.mask.shape == (96, 96)
        assert region.mask.dtype == bool
        assert region.mask.any()
        x0, y0, x1, y1 = region.box
        assert region.mask[y0:y1, x0:x1].sum() == region.mask.sum()
        assert 0 <= region.score <= 1
    assert _same(first, unpack_regions(pack_regions(first)))


def test_flat_and_tiny_images_are_no_accident(segmenter, runtime):
    flat = np.full((40, 56, 3), 128, dtype=np.uint8)
    assert all(r.mask.shape == (40, 56) for r in segmenter.regions(flat, runtime))
    tiny = np.zeros((2, 3, 3), dtype=np.uint8)
    assert all(r.mask.shape == (2, 3) for r in segmenter.regions(tiny, runtime))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5, 3), dtype=np.uint8),
        np.zeros((5, 5), dtype=np.uint8),
        np.zeros((5, 5, 3), dtype=np.float32),
    ],
    ids=["empty", "grey", "float"],
)
def test_what_is_no_image_is_an_error_with_a_hint(segmenter, runtime, image):
    with pytest.raises(OracleError, match="uint8") as caught:
        segmenter.regions(image, runtime)
    assert "RGB" in caught.value.hint
    with pytest.raises(OracleError):
        segmenter.at_points(image, ((0, 0),), runtime)


def test_points_get_regions_and_points_outside_are_an_error(segmenter, runtime):
    image = picture("blue", side=64)
    found = segmenter.at_points(image, ((32, 32),), runtime)
    assert _same(found, segmenter.at_points(image, ((32, 32),), runtime))
    assert all(r.kind == "point" and r.mask.shape == (64, 64) for r in found)
    with pytest.raises(OracleError, match="outside"):
        segmenter.at_points(image, ((64, 10),), runtime)


def test_regions_hold_every_small_patch_in_some_window(runtime):
    image = np.zeros((224, 224, 3), dtype=np.uint8)
    windows = [r for r in Regions().regions(image, runtime) if r.kind == "window"]
    for x, y in [(0, 0), (97, 33), (150, 205), (208, 208)]:  # 14 px patches, at any place
        x, y = min(x, 210), min(y, 210)
        inside = [
            r
            for r in windows
            if r.box[0] <= x and r.box[1] <= y and r.box[2] >= x + 14 and r.box[3] >= y + 14
        ]
        assert min(r.area_fraction for r in inside) <= 0.02


def test_regions_find_a_plain_object(runtime):
    image = picture("red", seed=3, side=128)
    truth = (image[..., 0] > 180) & (image[..., 1] < 80)
    best = max(
        (r.mask & truth).sum() / (r.mask | truth).sum() for r in Regions().regions(image, runtime)
    )
    assert best > 0.9


def test_a_parameter_changes_the_digest():
    assert Regions().digest == Regions().digest
    assert Regions().digest != Regions(superpixels=12).digest
