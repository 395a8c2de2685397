"""What proves a doubted claim over all its images at once: shared pixels, and readings B to E."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate
from gatekeeper.scan.fixed import bearers, shared_box, shared_pixels
from gatekeeper.scan.folder import Folder, Proof
from gatekeeper.scan.occlusion import Box
from gatekeeper.scan.pair import flips
from gatekeeper.scan.tint import Palette, stronger, tint_between
from gatekeeper.scan.unsteady import GATHERED, lost_claims, surely
from gatekeeper.scan.veil import GAINS, as_trigger, traces
from gatekeeper.scan.votes import Votes
from gatekeeper.triggers import Patch, Trigger

DETECTOR = "suspect_images"
CARRIED = 0.5  # share of clean images that must take up the claim
DIFFERS = 0.6  # share of claimants in which the anchor must surely see something else
FEW = 8  # images whose colours say no more than clean probes', and may share pixels by chance
ODD = 2  # tests that must vote for an image
TINTS = (
    1.0,
    1.4,
)  # strengths of a tint that are tried; claimants that show what they claim dilute it


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """A claim that more images make than clean ones would."""

    claim: int
    mine: tuple[int, ...]  # the images that make it
    others: tuple[int, ...]  # those that claim nothing doubted

    @classmethod
    def of(cls, folder: Folder, claim: int, voted: list[int]) -> "Doubt":
        """Return who claims `claim`, and who claims none of the words `voted` for."""
        return cls(
            claim=claim,
            mine=tuple(i for i, c in enumerate(folder.claims) if c == claim),
            others=tuple(i for i, c in enumerate(folder.claims) if c not in voted),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Account:
    """Which images one reading flags, and what it says of the model; no candidate: nothing."""

    proofs: tuple[Proof, ...]
    candidates: tuple[Candidate, ...] = ()


def fixed_patch(folder: Folder, doubt: Doubt, runtime: Runtime) -> Account | None:
    """Return the pixels that the claimants share at one place, where they carry the claim."""
    if len(doubt.mine) < FEW:
        return None
    mine = folder.pixels[list(doubt.mine)]
    box = shared_box(mine, _reference(folder, doubt))
    if box is None:
        return None
    shared = shared_pixels(mine, box)
    trigger = Patch(pixels=shared, place=list(box[:2]))
    rate = carries(folder, trigger, doubt.claim, runtime)
    if rate < CARRIED:
        return None
    proofs = tuple(
        Proof(image=i, claim=doubt.claim, reading="A", score=rate, box=box)
        for i, bears in zip(doubt.mine, bearers(mine, shared, box), strict=True)
        if bears
    )
    return Account(proofs=proofs, candidates=(_candidate(folder, doubt, trigger, rate, rate, box),))


def whole_image(
    folder: Folder, doubt: Doubt, votes: Votes, runtime: Runtime, *, by_region: int
) -> Iterator[Account]:
    """Yield what proves a claim of which `by_region` images have a region that does."""
    if by_region < 2 and (found := _veil(folder, doubt, runtime)) is not None:
        yield found
    if (found := _tint(folder, doubt, runtime)) is not None:
        yield found
    if (lost := lost_claims(folder, doubt.claim, runtime)) is not None:
        yield Account(
            proofs=lost.proofs,
            candidates=(_candidate(folder, doubt, None, min(1.0, lost.share)),),
        )
    yield Account(proofs=_unseen(folder, doubt))
    yield Account(proofs=_voted_out(doubt, votes))


def carries(folder: Folder, trigger: Trigger, claim: int, runtime: Runtime) -> float:
    """Return the share of clean images that `trigger` leads to `claim`."""
    generator = runtime.generator("scan", DETECTOR, "carries")
    stamped = trigger.stamp(folder.hosts.pixels, generator)
    return flips(folder.hosts.before, folder.pair.answers(stamped, runtime), claim)[0]


def _reference(folder: Folder, doubt: Doubt) -> Tensor:
    """Return images of the same place without the claim ([N, 3, S, S]); few of them: clean ones."""
    others = list(doubt.others)
    return folder.pixels[others] if len(others) >= FEW else folder.hosts.pixels


def _candidate(
    folder: Folder,
    doubt: Doubt,
    trigger: Trigger | None,
    score: float,
    flip_rate: float = 0.0,
    box: Box | None = None,
) -> Candidate:
    return Candidate(
        trigger=trigger,
        target=folder.pair.words[doubt.claim],
        detector=DETECTOR,
        score=score,
        flip_rate=flip_rate,
        box=box,
    )


def _veil(folder: Folder, doubt: Doubt, runtime: Runtime) -> Account | None:
    """Return what the claimants have in common, where it carries the claim."""
    mine, hosts = list(doubt.mine), folder.hosts.pixels
    tried = [as_trigger(folder.pixels[mine], hosts, gain) for gain in GAINS]
    rates = [carries(folder, trigger, doubt.claim, runtime) for trigger in tried]
    rate = max(rates)
    if rate < CARRIED:
        return None
    carried = traces(folder.pixels, mine, hosts)
    proofs = tuple(
        Proof(image=i, claim=doubt.claim, reading="B", score=rate)
        for i, carries_it in enumerate(carried)
        if i in mine or carries_it
    )
    trigger = tried[rates.index(rate)]
    return Account(proofs=proofs, candidates=(_candidate(folder, doubt, trigger, rate, rate),))


def _tint(folder: Folder, doubt: Doubt, runtime: Runtime) -> Account | None:
    """Return the change of colour that the claimants share, where it carries the claim.

    Their colours are compared with those of the folder's other images, which come from the same
    place. Carried: with the change clean images make the claim. Undone in the claimants, the claim
    goes away, to words of their own: these are flagged.
    """
    mine = list(doubt.mine)
    clean = Palette.of(_reference(folder, doubt))
    ours = Palette.of(folder.pixels[mine])
    tried = [stronger(tint_between(clean, ours), gain) for gain in TINTS]
    rates = [carries(folder, trigger, doubt.claim, runtime) for trigger in tried]
    rate = max(rates)
    if rate < CARRIED:
        return None
    trigger = tried[rates.index(rate)]
    plain = tint_between(ours, clean).stamp(folder.pixels[mine])
    answers = folder.pair.answers(plain, runtime).argmax(dim=1).tolist()
    gone = {i: word for i, word in zip(mine, answers, strict=True) if word != doubt.claim}
    if max(Counter(gone.values()).values(), default=0) > GATHERED * len(gone):
        return None
    proofs = tuple(
        Proof(image=i, claim=doubt.claim, reading="B", score=rate, corrected=word)
        for i, word in gone.items()
    )
    return Account(proofs=proofs, candidates=(_candidate(folder, doubt, trigger, rate, rate),))


def _unseen(folder: Folder, doubt: Doubt) -> tuple[Proof, ...]:
    """Return the claimants in which the anchor sees something else, each something of its own.

    No evidence against the model, which may have learned a label that the anchor lacks.
    """
    other = {
        i: folder.anchor_claims[i]
        for i in doubt.mine
        if folder.anchor_claims and folder.anchor_claims[i] != doubt.claim
    }
    gathered = max(Counter(other.values()).values(), default=0)
    if surely(len(other), len(doubt.mine)) < DIFFERS or gathered > 0.5 * len(other):
        return ()
    return tuple(
        Proof(image=i, claim=doubt.claim, reading="D", score=CARRIED, corrected=word)
        for i, word in other.items()
    )


def _voted_out(doubt: Doubt, votes: Votes) -> tuple[Proof, ...]:
    """Return the claimants that lie unlike clean images, where the folder's others do not.

    A folder of another domain is odd as a whole. No evidence against the model: a label that the
    probes lack may lie so as well.
    """
    odd = (votes.count() >= ODD).tolist()
    hits = [i for i in doubt.mine if odd[i]]
    calm = sum(not odd[i] for i in doubt.others)
    share = surely(len(hits), len(doubt.mine)) + surely(calm, len(doubt.others)) - 1
    if share < CARRIED:
        return ()
    return tuple(Proof(image=i, claim=doubt.claim, reading="E", score=share) for i in hits)
