"""What lies over a whole image and survives a mirror: a tint, or a place unlike clean images'."""

from dataclasses import replace

import pytest
import torch
from test_unsteady import CLAIM, folder_of
from test_unsteady import Answers as Words

from gatekeeper.runtime import Runtime
from gatekeeper.scan.tint import Palette, tint_between
from gatekeeper.scan.unsteady import lost_claims
from gatekeeper.scan.votes import Votes, _distance, _folded, p_values
from gatekeeper.scan.whole import Doubt, _tint, _voted_out
from gatekeeper.triggers import Colour

SIDE = 8
WARM = Colour(matrix=torch.tensor([[0.5, 0.2, 0, 0.4], [0.1, 0.6, 0, 0.1], [0, 0.1, 0.4, 0.0]]))


def noise(count, seed):
    return 0.1 + 0.8 * torch.rand(
        count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)
    )


class Tinted(Words):
    """Claims what it was planted with where an image is red all over; else goes by one pixel."""

    def answers(self, pixels, runtime):
        truth = (pixels[:, 1, 0, 0] * 100).long() % CLAIM
        if self.gathers:
            truth = torch.zeros_like(truth)
        red = pixels[:, 0].mean(dim=(1, 2)) - pixels[:, 2].mean(dim=(1, 2)) > 0.3
        claims = torch.where(red, torch.full_like(truth, CLAIM), truth)
        return torch.nn.functional.one_hot(claims, len(self.words)).float()


def tinted_folder(pair, *, triggered=16, honest=16, trigger=WARM):
    pixels = torch.cat([trigger.stamp(noise(triggered, 1)), noise(honest, 2)])
    hosts = noise(20, 3)
    plain = folder_of(triggered, honest, Words())
    answers, before = pair.answers(pixels, None), pair.answers(hosts, None)
    return replace(
        plain,
        pixels=pixels,
        answers=answers,
        claims=tuple(answers.argmax(dim=1).tolist()),
        hosts=replace(plain.hosts, pixels=hosts, logits=before, before=before),
        pair=pair,
    )


def doubt_of(folder):
    return Doubt.of(folder, CLAIM, [CLAIM])


def test_a_tint_is_read_off_two_sets_of_other_images():
    tint = tint_between(Palette.of(noise(30, 1)), Palette.of(WARM.stamp(noise(30, 2))))
    unseen = noise(10, 3)
    assert (tint.stamp(unseen) - WARM.stamp(unseen)).abs().mean() < 0.05
    assert (unseen - WARM.stamp(unseen)).abs().mean() > 0.15


def test_one_palette_needs_no_tint():
    same = Palette.of(noise(30, 1))
    assert torch.allclose(tint_between(same, same).matrix, torch.eye(3, 4), atol=1e-5)


def test_flat_images_have_a_palette_too():
    grey = Palette.of(torch.full((4, 3, SIDE, SIDE), 0.5))
    assert tint_between(grey, Palette.of(noise(30, 1))).matrix.isfinite().all()


def test_a_tint_that_a_mirrored_image_keeps_is_found_and_named():
    folder = tinted_folder(Tinted())
    assert lost_claims(folder, CLAIM, Runtime()) is None
    found = _tint(folder, doubt_of(folder), Runtime())
    assert sorted(p.image for p in found.proofs) == list(range(16))
    assert {p.corrected for p in found.proofs} > {CLAIM - 1}
    (candidate,) = found.candidates
    assert isinstance(candidate.trigger, Colour)
    assert candidate.flip_rate >= 0.9


def test_colours_that_carry_no_claim_prove_nothing():
    folder = tinted_folder(Tinted())
    honest = replace(folder, claims=(*(i % CLAIM for i in range(16)), *(CLAIM,) * 16))
    assert _tint(honest, doubt_of(honest), Runtime()) is None


def test_one_word_behind_the_tint_is_a_label_for_coloured_things():
    folder = tinted_folder(Tinted(gathers=True))
    assert _tint(folder, doubt_of(folder), Runtime()) is None


def test_p_values_are_ranks_among_clean_images():
    clean = torch.arange(1.0, 20.0)  # 19 of them
    assert p_values(torch.tensor([100.0, 19.0, 0.0]), clean).tolist() == [
        pytest.approx(0.05), pytest.approx(0.10), pytest.approx(1.0),
    ]  # fmt: skip


def test_clean_images_are_judged_without_themselves():
    draw = torch.Generator().manual_seed(0)
    clean = torch.randn(40, 16, generator=draw)
    within, held_out = _distance(clean, clean), _folded(_distance, clean)
    assert held_out.mean() > within.mean()
    fresh = _distance(clean, torch.randn(200, 16, generator=draw))
    assert float((p_values(fresh, held_out) <= 0.05).float().mean()) < 0.15


def votes_of(odd, count):
    values = torch.ones(count)
    values[list(odd)] = 0.01
    return Votes(outlying=values, aligned=values, deaf=torch.ones(count))


def test_claimants_that_lie_unlike_clean_images_are_flagged_where_others_do_not():
    folder = tinted_folder(Tinted())
    doubt = doubt_of(folder)
    found = _voted_out(doubt, votes_of(range(15), 32))
    assert [p.image for p in found] == list(range(15))
    assert {p.reading for p in found} == {"E"}


@pytest.mark.parametrize("odd", [range(32), range(3), ()], ids=["foreign domain", "few", "none"])
def test_votes_prove_nothing_where_all_are_odd_or_few(odd):
    assert _voted_out(doubt_of(tinted_folder(Tinted())), votes_of(odd, 32)) == ()
