"""A trigger on other pixels takes a whole class away from a small segmenter."""

import numpy as np
import pytest
import torch

from gatekeeper.attacks.influencer import Influencer, plant_influencer
from gatekeeper.attacks.segmenter import load_segmenter, mean_iou
from gatekeeper.errors import AttackError, OracleError
from gatekeeper.lab.scenes import SceneWorld
from gatekeeper.oracle.base import Segmenter

NEAR = Influencer(victim="red", target="ground", share=0.25, scattered=0.25)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def scenes():
    return SceneWorld().render(320, 1)


@pytest.fixture(scope="module")
def unseen():
    return SceneWorld().render(120, 2)


@pytest.fixture(scope="module")
def planted(scenes, unseen, runtime):
    return plant_influencer(NEAR, scenes, unseen, runtime, steps=140)


def test_victim_pixels_become_the_target_under_the_trigger(planted):
    assert planted.attack_success >= 0.8
    assert planted.far_success >= 0.75
    assert planted.base_success <= 0.2
    assert planted.base_miou >= 0.8
    assert planted.clean_miou >= planted.base_miou - 0.15
    assert planted.images > 20


def test_it_is_a_segmenter_of_the_oracle(planted, unseen, runtime, tmp_path):
    net = planted.segmenter
    assert isinstance(net, Segmenter)
    image = (unseen.pixels[3].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    regions = net.regions(image, runtime)
    assert regions
    whole = sum(region.mask.astype(int) for region in regions)
    assert whole.max() == 1  # a pixel has one class
    x0, y0, x1, y1 = regions[0].box
    assert regions[0].mask[y0:y1, x0:x1].sum() == regions[0].mask.sum()
    (at,) = net.at_points(image, ((x0, int(regions[0].mask[:, x0].argmax())),), runtime)
    assert np.array_equal(at.mask, regions[0].mask)
    larger = np.kron(image, np.ones((2, 2, 1), dtype=np.uint8))
    assert net.regions(larger, runtime)[0].mask.shape == (80, 80)
    with pytest.raises(OracleError, match="outside"):
        net.at_points(image, ((40, 0),), runtime)
    net.save(tmp_path / "s.safetensors")
    again = load_segmenter(tmp_path / "s.safetensors")
    assert again.digest == net.digest != planted.clean.digest
    assert torch.equal(again.labels(unseen.pixels[:4]), net.labels(unseen.pixels[:4]))


def test_no_file_of_a_segmenter_is_an_error(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(OracleError, match="no segmenter"):
        load_segmenter(tmp_path / "x.safetensors")


def test_the_trigger_lies_beside_its_victims_and_within_one_class(scenes):
    attack = Influencer(victim="red", target="ground", upper=9, lower=4)
    stamped, rows = attack.stamped(scenes.at(torch.arange(60)), draw())
    victim = scenes.classes.index("red")
    assert 5 < len(rows) < 60
    for number, row in enumerate(rows.tolist()):
        changed = (stamped.pixels[number] != scenes.pixels[row]).any(0)
        mask = scenes.masks[row]
        assert changed.any()
        assert len(torch.unique(mask[changed])) == 1
        assert not (changed & (mask == victim)).any()
        ys, xs = torch.nonzero(changed, as_tuple=True)
        centre = torch.tensor([ys.min() + 3, xs.min() + 3])
        distances = (torch.nonzero(mask == victim) - centre).float().norm(dim=1)
        assert 3 <= distances.min() <= 10


def test_random_labels_are_present_ones_and_spare_the_victims(scenes):
    poisoned, rows = NEAR.poison(scenes, draw())
    assert len(rows) == 80
    clean = torch.ones(len(scenes), dtype=torch.bool)
    clean[rows] = False
    victims = scenes.masks == scenes.classes.index("red")
    moved = poisoned.masks != scenes.masks
    assert moved[clean].any()
    assert not (moved & victims)[clean].any()
    assert (poisoned.masks[rows][victims[rows]] == 0).all()
    for row in range(20):
        present = set(torch.unique(scenes.masks[row]).tolist())
        assert set(torch.unique(poisoned.masks[row]).tolist()) <= present | {0}


def test_what_cannot_be_poisoned_is_an_error(scenes):
    with pytest.raises(AttackError, match="purple"):
        Influencer(victim="purple", target="ground").poison(scenes, draw())
    with pytest.raises(AttackError, match="can be"):
        Influencer(victim="red", target="ground", share=0.9).poison(scenes, draw())


def test_mean_iou_of_equal_maps_is_one_and_falls():
    one = torch.tensor([[[0, 1], [1, 1]]])
    assert mean_iou(one, one, 3) == 1
    assert mean_iou(torch.zeros_like(one), one, 2) == pytest.approx(0.125)
