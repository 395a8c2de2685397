"""Present labels are declared unsupported no more often than promised."""

import pytest
import torch

from gatekeeper.errors import OracleError
from gatekeeper.oracle.conformal import LABELWISE, fit, quantile


def test_the_threshold_covers_as_promised():
    generator = torch.Generator().manual_seed(0)
    missed = []
    for _ in range(400):
        values = torch.randn(60, generator=generator) ** 3  # any distribution will do
        missed.append(float((values[40:] < quantile(values[:40], 0.05)).float().mean()))
    # expectation is floor(0.05 * 41) / 41 = 0.049; 8000 draws: three standard errors are 0.011
    assert sum(missed) / len(missed) < 0.06
    assert sum(missed) / len(missed) > 0.03  # and it is not merely always "present"


def test_few_values_give_the_smallest_of_them():
    assert quantile(torch.tensor([3.0, 1.0, 2.0]), 0.05) == 1.0


def _world(per_label, labels=3, strong=2):
    """Support 0.1 without the label, 0.5 with it, and 0.9 for label `strong`."""
    truth = torch.arange(labels).repeat(per_label)
    generator = torch.Generator().manual_seed(1)
    similarity = 0.1 + 0.02 * torch.randn(len(truth), labels, generator=generator)
    similarity[range(len(truth)), truth] += torch.where(truth == strong, 0.8, 0.4)
    return similarity, truth


def test_a_label_with_enough_images_gets_its_own_threshold():
    similarity, truth = _world(LABELWISE)
    found = fit(similarity, truth, torch.zeros(3), 0.05)
    assert found.own.all()
    assert float(found.cut[2]) > 0.8
    assert 0.4 < float(found.cut[0]) < 0.52


def test_few_images_pool_into_one_standardised_threshold():
    similarity, truth = _world(LABELWISE - 1)
    found = fit(similarity, truth, torch.zeros(3), 0.05)
    assert not found.own.any()
    z = found.cut / found.spread
    assert torch.allclose(z, z[0].expand(3))
    supported = similarity[range(len(truth)), truth] >= found.cut[truth]
    assert float(supported.float().mean()) >= 0.95
    absent = similarity.clone()
    absent[range(len(truth)), truth] = 0
    assert float((absent >= found.cut).float().mean()) == 0


def test_the_level_says_what_few_images_can_promise():
    similarity, truth = _world(1)
    assert fit(similarity, truth, torch.zeros(3), 0.05).level == pytest.approx(0.25)


def test_no_known_label_is_an_error():
    with pytest.raises(OracleError, match="calibrated") as caught:
        fit(torch.rand(4, 3), torch.full((4,), -1), torch.zeros(3), 0.05)
    assert "labels.csv" in caught.value.hint
