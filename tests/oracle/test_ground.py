"""The oracle names what is there, calls absent what is not, and is not led by a trigger."""

import numpy as np
import pytest
import torch
from colour_world import COLOURS, PALETTE, colour_clip, colour_probes, picture, pixels_of

from gatekeeper.errors import BudgetExhaustedError, OracleError
from gatekeeper.oracle.cache import OracleCache
from gatekeeper.oracle.ground import Oracle
from gatekeeper.oracle.regions import Regions
from gatekeeper.runtime import Meter, Runtime

TEMPLATES = ("a photo of a {}.",)


def make(labeler=None, independent=True, cache=None, **settings):
    return Oracle(
        segmenter=Regions(),
        labeler=labeler or colour_clip(),
        independent=independent,
        labels=COLOURS,
        templates=TEMPLATES,
        cache=cache or OracleCache(),
        **settings,
    )


@pytest.fixture(scope="module")
def oracle(runtime):
    return make().calibrate(colour_probes(48), runtime)


def _with_patch(image, colour, side=8, place=(40, 8)):
    out = image.copy()
    out[place[1] : place[1] + side, place[0] : place[0] + side] = PALETTE[colour]
    return out


def test_what_is_there_is_present_and_what_is_not_is_absent(oracle, runtime):
    fresh = colour_probes(32, seed=7)
    pixels = fresh.pixels(oracle.labeler.preprocess)
    truth = torch.tensor([COLOURS.index(x) for x in fresh.labels()])
    present = oracle.present(pixels, runtime)
    assert present.shape == (32, 8)
    assert present[range(32), truth].float().mean() >= 0.95
    present[range(32), truth] = False
    assert present.float().mean() < 0.35  # a rank among the first two of eight counts as present
    wrong = (truth + 3) % 8
    assert oracle.absent(pixels, truth, runtime).float().mean() <= 0.05
    assert oracle.absent(pixels, wrong, runtime).float().mean() > 0.5


def test_ranks_and_names_are_of_the_image(oracle, runtime):
    pixels = pixels_of(picture("cyan", 5), picture("brown", 6))
    ranks = oracle.rank(pixels, runtime)
    assert sorted(ranks[0].tolist()) == list(range(1, 9))
    assert ranks[0, COLOURS.index("cyan")] == 1
    names = oracle.grounded(pixels, runtime)
    assert names[0][0] == "cyan"
    assert names[1][0] == "brown"
    assert all(len(n) <= 3 for n in names)


def test_a_grey_picture_grounds_nothing(oracle, runtime):
    grey = torch.full((1, 3, 64, 64), 110 / 255)
    assert oracle.grounded(grey, runtime) == [()]


def test_a_known_image_costs_no_passes(tmp_path, runtime):
    image = pixels_of(picture("red", 1))
    first, second = Runtime(meter=Meter()), Runtime(meter=Meter())
    one = make(cache=OracleCache(tmp_path)).calibrate(colour_probes(16), first)
    one.present(image, first)
    assert first.meter.image_passes == 17 * (1 + one.regions_per_image)
    two = make(cache=OracleCache(tmp_path)).calibrate(colour_probes(16), second)
    assert torch.equal(two.support(image, second), one.support(image, first))
    assert second.meter.image_passes == 0
    assert one.digest == two.digest


def test_a_damaged_cache_is_asked_anew(tmp_path, runtime):
    image = picture("red", 1)
    good = make(cache=OracleCache(tmp_path)).regions(pixels_of(image)[0], runtime)
    for file in tmp_path.rglob("*.npz"):
        file.write_bytes(b"\0" * 100)
    again = make(cache=OracleCache(tmp_path)).regions(pixels_of(image)[0], runtime)
    assert len(again) == len(good)
    assert all((a.mask == b.mask).all() for a, b in zip(again, good, strict=True))


def test_an_unnamed_labeler_is_never_kept_on_disk(tmp_path, runtime):
    cache = OracleCache(tmp_path)
    make(labeler=colour_clip(digest=""), cache=cache).calibrate(colour_probes(4), runtime)
    meter = Runtime()
    make(labeler=colour_clip(digest=""), cache=OracleCache(tmp_path)).calibrate(
        colour_probes(4), meter
    )
    assert meter.meter.image_passes > 0


def test_company_does_not_change_an_answer(oracle, runtime):
    pixels = pixels_of(*[picture(c, 30 + i) for i, c in enumerate(COLOURS)])
    fresh = make().calibrate(colour_probes(48), runtime)
    alone = torch.cat([fresh.support(p[None], runtime) for p in pixels])
    assert torch.equal(alone, oracle.support(pixels, runtime))


def test_a_budget_stops_it(runtime):
    with pytest.raises(BudgetExhaustedError):
        make().calibrate(colour_probes(16), Runtime(meter=Meter(limit=20)))


def test_without_thresholds_there_is_no_answer(runtime):
    with pytest.raises(OracleError, match="thresholds") as caught:
        make().present(pixels_of(picture("red")), runtime)
    assert "calibrate" in caught.value.hint


def test_no_clean_image_is_an_error(runtime):
    with pytest.raises(OracleError, match="clean images"):
        make().calibrate(colour_probes(0), runtime)


def test_unlabelled_probes_are_labelled_by_the_labeler_where_it_is_sure(runtime):
    found = make().calibrate(colour_probes(40, labelled=False), runtime)
    assert 10 <= found.thresholds.images <= 40
    red = pixels_of(picture("red", 3))
    assert found.present(red, runtime)[0, COLOURS.index("red")]


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64)])
def test_other_shapes_are_an_error(oracle, runtime, shape):
    with pytest.raises(OracleError, match="pixels"):
        oracle.present(torch.zeros(shape), runtime)


def test_a_stamp_changes_nothing_and_another_picture_does(oracle, runtime):
    images = [picture(c, 60 + i) for i, c in enumerate(COLOURS[:6])]
    stamped = [_with_patch(i, "white") for i in images]
    clean, dirty = pixels_of(*images), pixels_of(*stamped)
    assert not oracle.changed(clean, dirty, runtime).any()
    # of eight labels five lead always; one leads in no other picture's views
    assert oracle.changed(clean, torch.rand(6, 3, 64, 64), runtime).shape == (6,)
    with pytest.raises(OracleError, match="shape"):
        oracle.changed(clean, dirty[:3], runtime)


def test_the_suspects_own_word_is_not_taken_for_its_trigger(runtime):
    """A speck of white makes this suspect say "pink": its support must come from elsewhere."""
    suspect = colour_clip(digest="sha256:fooled", fooled_by="white")
    colours = COLOURS[:5]
    alone = make(suspect, independent=False).calibrate(colour_probes(40, colours=colours), runtime)
    gullible = make(suspect, independent=True).calibrate(
        colour_probes(40, colours=colours), runtime
    )
    images = [_with_patch(picture(c, 80 + i), "white", side=8) for i, c in enumerate(colours)]
    pixels, pink = pixels_of(*images), COLOURS.index("pink")
    claimed = suspect.zero_shot(COLOURS, TEMPLATES, runtime).logits(suspect.embed(pixels, runtime))
    assert (claimed.argmax(1) == pink).all()  # the backdoor works
    trusting = gullible.support(pixels, runtime)[:, pink]
    careful = alone.support(pixels, runtime)[:, pink]
    assert (trusting > 0.5).all()
    assert (careful < 0.2).all()
    assert not gullible.absent(pixels, pink, runtime).any()
    assert alone.absent(pixels, pink, runtime).float().mean() >= 0.8


def test_alone_structure_decides_whether_a_picture_changed(runtime):
    alone = make(independent=False).calibrate(colour_probes(16), runtime)
    images = [picture(c, 100 + i) for i, c in enumerate(COLOURS)]
    clean = pixels_of(*images)
    stamped = pixels_of(*[_with_patch(i, "pink", side=10) for i in images])
    generator = torch.Generator().manual_seed(0)
    veil = torch.nn.functional.interpolate(
        torch.rand(1, 3, 16, 16, generator=generator), (64, 64), mode="bicubic"
    )
    meter = Runtime()
    assert not alone.changed(clean, stamped, meter).any()
    assert not alone.changed(clean, 0.9 * clean + 0.1 * veil.clamp(0, 1), meter).any()
    assert alone.changed(clean, clean.roll(1, 0).flip(-1), meter).float().mean() > 0.7
    assert meter.meter.image_passes == 0


def test_the_digest_follows_what_decides(oracle, runtime):
    assert oracle.digest != make().digest  # thresholds
    assert make().digest != make(regions_per_image=4).digest
    assert make().digest != make(independent=False).digest
    assert make().digest != make(labeler=colour_clip("sha256:other")).digest


def test_regions_are_those_of_the_segmenter(oracle, runtime):
    image = picture("red", 2)
    direct = Regions().regions(image, runtime)
    through = oracle.regions(pixels_of(image)[0], runtime)
    assert [r.box for r in through] == [r.box for r in direct]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(through, direct, strict=True))


def test_a_claim_that_has_come_true_counts_as_a_change(oracle, runtime):
    """A trigger that puts a real pink object into the picture is no backdoor."""
    images = [picture(c, 120 + i) for i, c in enumerate(COLOURS[:5])]
    clean = pixels_of(*images)
    speck = pixels_of(*[_with_patch(i, "pink", side=3) for i in images])
    thing = pixels_of(*[_with_patch(i, "pink", side=32, place=(2, 2)) for i in images])
    pink = COLOURS.index("pink")
    assert not oracle.changed(clean, speck, runtime, claimed=COLOURS.index("white")).any()
    assert oracle.changed(clean, thing, runtime, claimed=pink).float().mean() >= 0.8
    assert oracle.changed(clean, thing, runtime, claimed=torch.full((5,), pink)).shape == (5,)
