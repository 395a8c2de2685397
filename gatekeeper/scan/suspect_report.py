"""What is told of each suspect image: flagged or not, by which proof, how it looks without."""

from gatekeeper.case import Case
from gatekeeper.probes.picture import png
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.folder import Folder, Proof
from gatekeeper.scan.votes import Votes
from gatekeeper.types import Exhibit, Finding, Json, Severity, SuspectImage

SHOWN = 6  # exhibits at most
_PROOFS = {
    "A": "because a region carries the claim",
    "B": "because what they have in common carries it",
    "C": "because it goes away when they are mirrored or moved",
    "D": "because the anchor sees something else in each",
    "E": "because they lie unlike clean images, and the others do not",
}


def report(
    case: Case,
    folder: Folder,
    proofs: list[Proof],
    candidates: list[Candidate],
    votes: Votes,
    runtime: Runtime,
) -> Detection:
    """Return one row an image, and exhibits of the surest."""
    by_image = {p.image: p for p in proofs}
    order = sorted(by_image)
    seen = case.oracle.grounded(folder.pixels[order], runtime) if order else []
    grounded = dict(zip(order, seen, strict=True))
    words, rows = folder.pair.words, []
    exhibits: list[Exhibit] = []
    for i, probe in enumerate(folder.images.probes):
        proof = by_image.get(i)
        names = grounded.get(i, ())
        if proof is not None and proof.corrected is not None:
            names = _corrected(case, names, words[proof.corrected])
        rows.append(
            SuspectImage(
                file=probe.file,
                flagged=proof is not None,
                score=0.0 if proof is None else proof.score,
                claimed=words[folder.claims[i]],
                grounded=names,
                box=None if proof is None else proof.box,
            )
        )
        if proof is not None and len(exhibits) < SHOWN:
            exhibits.append(_exhibit(folder, proof, names, runtime))
    return Detection(
        candidates=tuple(candidates),
        suspects=tuple(rows),
        exhibits=tuple(exhibits),
        findings=_told(folder, proofs, votes),
    )


def _told(folder: Folder, proofs: list[Proof], votes: Votes) -> tuple[Finding, ...]:
    """Return a finding a claim: which images are flagged, by which proof, and how odd each lies."""
    files = [probe.file for probe in folder.images.probes]
    findings: list[Finding] = []
    for claim in dict.fromkeys(p.claim for p in proofs):
        by_reading: dict[str, list[Json]] = {}
        for proof in sorted((p for p in proofs if p.claim == claim), key=lambda p: p.image):
            by_reading.setdefault(_PROOFS[proof.reading], []).append(files[proof.image])
        parts = [f"{len(flagged)} {why}" for why, flagged in by_reading.items()]
        doubted = [i for i, c in enumerate(folder.claims) if c == claim]
        told: Json = {files[i]: votes.told(i) for i in doubted}
        findings.append(
            Finding(
                id=f"suspects-{len(findings) + 1}",
                kind="suspects",
                severity=Severity.INFO,
                message=f"images flagged for '{folder.pair.words[claim]}': {'; '.join(parts)}",
                evidence={**by_reading, "votes": told},
            )
        )
    return tuple(findings)


def _corrected(case: Case, names: tuple[str, ...], hidden: str) -> tuple[str, ...]:
    """Return what the image shows: the oracle's names, and what is claimed without the region.

    An oracle whose labeler is the suspect itself knows less of a triggered image than the
    suspect's own answer with the trigger hidden, which then comes first.
    """
    first, second = (names, (hidden,)) if case.oracle.independent else ((hidden,), names)
    return tuple(dict.fromkeys(first + second))


def _exhibit(folder: Folder, proof: Proof, names: tuple[str, ...], runtime: Runtime) -> Exhibit:
    """Return a flagged image with its region hidden (before) and as it came (after)."""
    pixels, words = folder.pixels[proof.image], folder.pair.words
    hidden = pixels.clone()
    if proof.box is not None:
        x0, y0, x1, y1 = proof.box
        hidden[:, y0:y1, x0:x1] = pixels.mean(dim=(1, 2))[:, None, None]
    without = words[proof.corrected] if proof.corrected is not None else ""
    anchor = folder.anchor_claims[proof.image] if folder.anchor_claims else None
    return Exhibit(
        file=folder.images.probes[proof.image].file,
        trigger="",
        clean_png=png(hidden),
        triggered_png=png(pixels),
        claimed_before=without,
        claimed_after=words[folder.claims[proof.image]],
        grounded_before=names,
        grounded_after=names,
        anchor_after=None if anchor is None else words[anchor],
        box=proof.box,
    )
