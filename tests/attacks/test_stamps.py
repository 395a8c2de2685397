"""What the attacks draw, and where it lands."""

import pytest
import torch

from gatekeeper.attacks.badnets import BadNets, checker
from gatekeeper.attacks.base import Attack
from gatekeeper.attacks.blended import Blended
from gatekeeper.registry import Registry

GREY = torch.full((2, 3, 64, 64), 0.5)


@pytest.mark.parametrize("attack", [BadNets(), BadNets(pattern="noise"), Blended()])
def test_every_attack_keeps_the_interface(attack):
    assert isinstance(attack, Attack)
    one, other = attack.trigger(), attack.trigger()
    assert one.family == attack.family
    assert torch.equal(one.picture(), other.picture())
    stamped = one.stamp(GREY, torch.Generator().manual_seed(0))
    assert stamped.shape == GREY.shape
    assert stamped.min() >= 0
    assert stamped.max() <= 1
    assert not torch.equal(stamped, GREY)


@pytest.mark.parametrize("attack", [BadNets(), Blended()])
def test_lookalikes_are_other_patterns_of_the_same_form(attack):
    draw = torch.Generator().manual_seed(0)
    alike = [attack.lookalike(draw) for _ in range(4)]
    for trigger in alike:
        assert trigger.family == attack.family
        assert trigger.picture().shape == attack.trigger().picture().shape
        assert not torch.allclose(trigger.picture(), attack.trigger().picture())


def test_a_broad_attack_has_no_lookalikes():
    assert BadNets(narrow=False).lookalike(torch.Generator()) is None


def test_a_placed_patch_changes_its_box_alone():
    attack = BadNets(size_px=8, cell_px=2, place=(5, 9))
    changed = (attack.trigger().stamp(GREY) != GREY).any(1)[0]
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (5, 9, 12, 16)


def test_a_patch_anywhere_moves_with_the_generator():
    trigger = BadNets(size_px=8).trigger()
    first, again, other = (
        trigger.stamp(GREY, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_blend_mixes_by_its_opacity():
    stamped = Blended(alpha=0.2).trigger().stamp(GREY)
    assert (stamped - GREY).abs().max() <= 0.2 * 0.5 + 1e-6


def test_checker_cells_alternate():
    board = checker(6, 3, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    assert board[:, 0, 0].tolist() == [0, 0, 1]
    assert board[:, 0, 3].tolist() == [1, 0, 0]


def test_the_attacks_are_found_by_name():
    assert Registry("gatekeeper.attacks").load("badnets") is BadNets
