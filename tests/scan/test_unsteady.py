"""What lies over a whole image goes away when it is mirrored; what is in it stays."""

from dataclasses import replace

import pytest
import torch
from toy_clip import case_of, pictures

from gatekeeper.runtime import Runtime
from gatekeeper.scan import unsteady
from gatekeeper.scan.folder import Folder
from gatekeeper.scan.pair import Clean
from gatekeeper.scan.suspect_report import report
from gatekeeper.scan.unsteady import lost_claims, mirrored, moved, surely
from gatekeeper.scan.votes import Votes
from gatekeeper.scan.whole import Doubt, _unseen

SIDE, WORDS = 8, 6
CLAIM = 5


class Answers:
    """Answers for pictures whose first pixel tells the truth and whose corner holds a trigger."""

    words = tuple(f"word {i}" for i in range(WORDS))
    own = WORDS

    def __init__(self, *, gathers=False, steady=True):
        self.gathers, self.steady = gathers, steady

    def answers(self, pixels, runtime):
        fires = pixels[:, 0, 0, 0] > 0.5
        truth = (pixels[:, 1].mean(dim=(1, 2)) * 10).round().long() % CLAIM
        if self.gathers:
            truth = torch.zeros_like(truth)
        wrong = torch.full_like(truth, CLAIM) if self.steady else truth
        found = torch.where(fires, torch.full_like(truth, CLAIM), truth)
        claims = torch.where(pixels[:, 2, 0, 0] > 0.5, wrong, found)
        return torch.nn.functional.one_hot(claims, WORDS).float()


def folder_of(triggered, honest, pair, *, hosts=20):
    pixels = torch.zeros(triggered + honest, 3, SIDE, SIDE)
    pixels[:triggered, 0, 0, 0] = 1.0  # the corner: elsewhere in a mirrored image
    pixels[triggered:, 2] = 1.0  # shows the claimed word itself, whichever way it lies
    shades = torch.arange(triggered + honest) % 5 / 10
    pixels[:, 1] = shades[:, None, None]
    clean = torch.zeros(hosts, 3, SIDE, SIDE)
    clean[:, 1] = (torch.arange(hosts) % 5 / 10)[:, None, None]
    answers, before = pair.answers(pixels, None), pair.answers(clean, None)
    return Folder(
        images=pictures(triggered + honest),
        pixels=pixels,
        embeddings=torch.zeros(len(pixels), 2),
        answers=answers,
        claims=tuple(answers.argmax(dim=1).tolist()),
        anchor_claims=(),
        hosts=Clean(
            indices=tuple(range(hosts)),
            pixels=clean,
            logits=before,
            before=before,
            anchor_logits=None,
            anchor_before=None,
        ),
        pair=pair,
    )


def test_views_keep_the_picture():
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mirrored(mirrored(image)), image)
    assert torch.equal(moved(image)[..., 2:, 2:], image[..., :-2, :-2])
    assert moved(image).shape == image.shape


@pytest.mark.parametrize(("hits", "n", "share"), [(0, 0, 0.0), (5, 5, 0.566), (30, 30, 0.886)])
def test_few_images_say_little(hits, n, share):
    assert surely(hits, n) == pytest.approx(share, abs=1e-3)


def test_a_claim_that_goes_away_flags_those_that_lose_it_and_no_others():
    folder = folder_of(20, 2, Answers())
    found = lost_claims(folder, CLAIM, Runtime())
    assert sorted(p.image for p in found.proofs) == list(range(20))
    assert {p.reading for p in found.proofs} == {"C"}
    assert {p.corrected for p in found.proofs} == {0, 1, 2, 3, 4}
    assert 0.5 <= found.share < 20 / 22


def test_images_that_show_what_they_claim_are_left_alone():
    assert lost_claims(folder_of(0, 24, Answers()), CLAIM, Runtime()) is None


def test_a_handful_is_no_proof():
    assert lost_claims(folder_of(4, 0, Answers()), CLAIM, Runtime()) is None


def test_a_label_that_becomes_one_other_when_mirrored_is_honest():
    assert lost_claims(folder_of(20, 0, Answers(gathers=True)), CLAIM, Runtime()) is None


def test_a_model_whose_clean_answers_go_away_too_proves_nothing(monkeypatch):
    def scattered(pixels):
        out = pixels.flip(-1)
        out[:, 1] += 0.1
        return out

    monkeypatch.setattr(unsteady, "VIEWS", {"scattered": scattered})
    assert lost_claims(folder_of(20, 0, Answers()), CLAIM, Runtime()) is None


def test_the_anchor_flags_what_it_sees_otherwise_and_accuses_nobody():
    folder = folder_of(20, 4, Answers())
    doubt = Doubt.of(folder, CLAIM, [CLAIM])
    assert _unseen(folder, doubt) == ()
    other = (*(i % 5 for i in range(20)), *(CLAIM,) * 4)
    found = _unseen(replace(folder, anchor_claims=other), doubt)
    assert sorted(p.image for p in found) == list(range(20))
    gathered = (*(0,) * 20, *(CLAIM,) * 4)
    assert _unseen(replace(folder, anchor_claims=gathered), doubt) == ()


def test_the_report_says_which_proof_each_image_has():
    folder = folder_of(20, 2, Answers())
    found = lost_claims(folder, CLAIM, Runtime())
    even = torch.ones(22)
    votes = Votes(outlying=even / 100, aligned=even, deaf=even)
    told = report(case_of("clean"), folder, list(found.proofs), [], votes, Runtime())
    assert sum(s.flagged for s in told.suspects) == 20
    (finding,) = told.findings
    assert "20 because it goes away" in finding.message
    votes_told = finding.evidence.pop("votes")
    assert [len(files) for files in finding.evidence.values()] == [20]
    assert votes_told["000.png"] == {"outlying": 0.01, "aligned": 1.0, "deaf": 1.0}
    assert len(votes_told) == 22  # every claimant, flagged or not
