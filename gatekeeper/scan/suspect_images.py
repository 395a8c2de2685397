"""Which suspect images carry a trigger, to which label, and where?"""

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import ClassVar, NamedTuple

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.folder import Folder, Proof, read_folder
from gatekeeper.scan.occlusion import coarse, cut, pasted, refine, share_claiming
from gatekeeper.scan.pair import MIN_PROBES
from gatekeeper.scan.suspect_report import report
from gatekeeper.scan.votes import cast
from gatekeeper.scan.whole import Doubt, carries, fixed_patch, whole_image
from gatekeeper.triggers import Patch, Trigger

WHOLE = 0.9  # share of a window's drop that a finer one must keep to hold what it holds


class Region(NamedTuple):
    """A region that carries its image's claim to clean images."""

    proof: Proof
    share: float  # of the clean images that take up the claim
    left: float  # probability of what the image shows once it is hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectImages:
    """Find triggered images by what carries their claim, after EftCLIP (arXiv:2511.13545).

    A claimed label is doubted where more images claim it than clean ones would. Both readings of
    the paper's refinement are followed, each with a proof. A: some region carries the claim;
    without it the label vanishes (occlusion), with it other images claim the label (transfer).
    B: no region does, but what the claimants have in common carries it to other images. Neither
    needs an anchor or a checkpoint. A real small object vanishes too when it is hidden, but its
    pixels do not carry its label everywhere.
    """

    name: ClassVar[str] = "suspect_images"
    hosts: int = 6  # clean images that a region is pasted on
    drop: float = 0.5  # share of the claim's probability that a region must hold
    carried: float = 0.5  # share of hosts that must take up the claim
    alone: float = 0.75  # the same where no other image speaks for it: of a claim that is not
    # voted for, or of which only few claimants have a region that carries it
    common: float = 0.5  # share of the claimants from which these are not few
    unsure: float = 0.02  # share of clean images that the suspect may be less sure of than of what
    # most claimants show once their region is hidden
    votes: float = 0.02  # share of images, at least 3, from which a label is voted for
    unvoted: int = 64  # images without votes that are looked at, at most; each costs 16 passes
    tried: int = 3  # windows of an image that are pasted, and crops tried as the trigger

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Judge every suspect image."""
        if case.suspects is None or len(case.suspects) == 0:
            return Detection(skipped="no suspect images")
        if len(case.probes) < MIN_PROBES:
            return Detection(skipped=f"fewer than {MIN_PROBES} probes")
        folder = read_folder(case, case.suspects, runtime)
        voted = self._voted(folder)
        doubts = [Doubt.of(folder, claim, voted) for claim in voted]
        in_place = [f for d in doubts if (f := fixed_patch(folder, d, runtime)) is not None]
        candidates = [c for found in in_place for c in found.candidates]
        known = [p for found in in_place for p in found.proofs]
        moving = self._regions(folder, voted, known, runtime)
        claims = dict.fromkeys(p.claim for p in moving)
        candidates += [self._patch(folder, moving, claim, runtime) for claim in claims]
        proofs = known + moving
        counted = Counter(p.claim for p in proofs)
        votes = cast(case, folder, runtime)
        for doubt in doubts:
            by_region = counted[doubt.claim]
            if by_region >= self.carried * len(doubt.mine):
                continue
            for found in whole_image(folder, doubt, votes, runtime, by_region=by_region):
                candidates += found.candidates
                flagged = {p.image for p in proofs}
                proofs += [p for p in found.proofs if p.image not in flagged]
        return report(case, folder, proofs, candidates, votes, runtime)

    def _voted(self, folder: Folder) -> list[int]:
        """Return the words claimed by more images than clean ones would claim, most first.

        Clean probes say how often a label turns up; the anchor, where there is one, says what
        these very images show.
        """
        count = len(folder.pixels)
        usual = Counter(folder.hosts.before.argmax(dim=1).tolist())
        excess = {}
        for claim, number in Counter(folder.claims).items():
            expected = usual[claim] / len(folder.hosts.pixels) * count
            if folder.anchor_claims:
                expected = float(sum(a == claim for a in folder.anchor_claims))
            if number - expected >= max(3.0, self.votes * count):
                excess[claim] = number - expected
        return sorted(excess, key=lambda claim: (-excess[claim], claim))

    def _regions(
        self, folder: Folder, voted: list[int], known: list[Proof], runtime: Runtime
    ) -> list[Proof]:
        """Return the proofs by reading A: images with voted labels, then some of the others."""
        proven = {p.image for p in known}
        first = [i for i, claim in enumerate(folder.claims) if claim in voted and i not in proven]
        rest = [i for i, claim in enumerate(folder.claims) if claim not in voted]
        chosen = first + rest[: self.unvoted]
        found = []
        for image in runtime.progress(chosen, "suspect images"):
            region = self._region(folder, image, folder.claims[image] in voted, runtime)
            if region is not None:
                found.append(region)
        claims = Counter(folder.claims)
        backed = Counter(p.claim for p in (*known, *(region.proof for region in found)))
        kept, least = [], self._usually_sure(folder)
        for claim in dict.fromkeys(region.proof.claim for region in found):
            mine = [region for region in found if region.proof.claim == claim]
            few = backed[claim] < self.common * claims[claim]
            mine = [r for r in mine if r.share >= self.alone or not few]
            if mine and median(r.left for r in mine) >= least:
                kept += [region.proof for region in mine]
        return kept

    def _usually_sure(self, folder: Folder) -> float:
        """Return how sure the suspect is of all but few clean images.

        Without its trigger an image shows what it always did; without its only object, nothing.
        """
        return float(folder.hosts.before.amax(dim=1).quantile(self.unsure))

    def _region(self, folder: Folder, image: int, voted: bool, runtime: Runtime) -> Region | None:
        """Return the region of one image that carries its claim, None if none does.

        A large one only where the claim is `voted` for: the pixels of a real thing, whole, may well
        make other images claim it.
        """
        pixels, claim = folder.pixels[image], folder.claims[image]
        before = float(folder.answers[image, claim])
        pair = folder.pair
        start = coarse(pair, pixels, claim, before, runtime)[0]
        if start.drop < self.drop or start.answer == claim:
            return None
        hosts = folder.hosts.pixels[folder.others(claim)][: self.hosts]
        finer = refine(pair, pixels, claim, before, start, runtime)[: self.tried]
        if voted and finer[0].drop < WHOLE * start.drop:
            finer.append(start)  # too large for any finer one
        for window in finer:
            if window.drop < self.drop or len(hosts) == 0:
                continue
            moved = pasted(hosts, cut(pixels, window.box), window.box)
            share = share_claiming(pair.answers(moved, runtime), claim)
            if share >= (self.carried if voted else self.alone):
                proof = Proof(
                    image=image,
                    claim=claim,
                    reading="A",
                    score=0.5 * share + 0.5 * min(1.0, window.drop),
                    box=window.box,
                    corrected=window.answer,
                )
                return Region(proof=proof, share=share, left=window.sure)
        return None

    def _patch(
        self, folder: Folder, proofs: list[Proof], claim: int, runtime: Runtime
    ) -> Candidate:
        """Return the region that carries `claim` best to clean images, at any place."""
        mine = sorted((p for p in proofs if p.claim == claim), key=lambda p: -p.score)
        boxed = [p for p in mine if p.box is not None]
        boxed.sort(key=lambda p: (p.box[2] - p.box[0] if p.box else 0, -p.score))
        best: tuple[float, Trigger | None, Proof] = (0.0, None, mine[0])
        for proof in boxed[: self.tried]:
            if proof.box is None:
                continue
            trigger = Patch(pixels=cut(folder.pixels[proof.image], proof.box))
            rate = carries(folder, trigger, claim, runtime)
            if rate > best[0] or best[1] is None:
                best = (rate, trigger, proof)
        several = min(1.0, len(mine) / 4)  # one odd image says little, four with one label much
        return Candidate(
            trigger=best[1],
            target=folder.pair.words[claim],
            detector=self.name,
            score=max(best[0] if len(mine) > 1 else 0.0, several),
            flip_rate=best[0],
            box=best[2].box,
        )
