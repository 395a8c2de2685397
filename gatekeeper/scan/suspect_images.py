"""Which suspect images carry a trigger, to which label, and where?"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.folder import Folder, Proof, read_folder
from gatekeeper.scan.occlusion import coarse, cut, pasted, refine, share_claiming
from gatekeeper.scan.pair import MIN_PROBES, flips
from gatekeeper.scan.suspect_report import report
from gatekeeper.scan.unsteady import lost_claims, surely
from gatekeeper.scan.veil import GAINS, as_trigger, traces
from gatekeeper.triggers import Patch, Trigger


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
    votes: float = 0.02  # share of images, at least 3, from which a label is voted for
    unvoted: int = 64  # images without votes that are looked at, at most; each costs 16 passes
    differs: float = 0.6  # share of claimants in which the anchor must surely see something else
    tried: int = 3  # windows of an image that are pasted, and crops tried as the trigger

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Judge every suspect image."""
        if case.suspects is None or len(case.suspects) == 0:
            return Detection(skipped="no suspect images")
        if len(case.probes) < MIN_PROBES:
            return Detection(skipped=f"fewer than {MIN_PROBES} probes")
        folder = read_folder(case, case.suspects, runtime)
        voted = self._voted(folder)
        proofs = self._regions(folder, voted, runtime)
        counted = Counter(p.claim for p in proofs)
        candidates = [self._patch(folder, proofs, claim, runtime) for claim in counted]
        for claim in voted:
            if counted[claim] >= self.carried * folder.claims.count(claim):
                continue
            for found in self._whole(folder, claim, counted[claim], runtime):
                candidates += found[0]
                known = {p.image for p in proofs}
                proofs += [p for p in found[1] if p.image not in known]
        return report(case, folder, proofs, candidates, runtime)

    def _whole(
        self, folder: Folder, claim: int, by_region: int, runtime: Runtime
    ) -> Iterator[tuple[list[Candidate], list[Proof]]]:
        """Yield what proves `claim` where no region does: surest first."""
        if by_region < 2 and (veil := self._veil(folder, claim, runtime)) is not None:
            yield [veil[0]], veil[1]
        if (lost := lost_claims(folder, claim, runtime)) is not None:
            candidate = Candidate(
                trigger=None,
                target=folder.pair.words[claim],
                detector=self.name,
                score=min(1.0, lost.share),
            )
            yield [candidate], list(lost.proofs)
        yield [], self._unseen(folder, claim)

    def _unseen(self, folder: Folder, claim: int) -> list[Proof]:
        """Return the claimants in which the anchor sees something else, each something of its own.

        No evidence against the model, which may have learned a label that the anchor lacks.
        """
        mine = [i for i, c in enumerate(folder.claims) if c == claim]
        other = {
            i: folder.anchor_claims[i]
            for i in mine
            if folder.anchor_claims and folder.anchor_claims[i] != claim
        }
        gathered = max(Counter(other.values()).values(), default=0)
        if surely(len(other), len(mine)) < self.differs or gathered > 0.5 * len(other):
            return []
        return [
            Proof(image=i, claim=claim, reading="D", score=self.carried, corrected=word)
            for i, word in other.items()
        ]

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

    def _regions(self, folder: Folder, voted: list[int], runtime: Runtime) -> list[Proof]:
        """Return the proofs by reading A: images with voted labels, then some of the others."""
        first = [i for i, claim in enumerate(folder.claims) if claim in voted]
        rest = [i for i, claim in enumerate(folder.claims) if claim not in voted]
        chosen = first + rest[: self.unvoted]
        proofs = []
        for image in runtime.progress(chosen, "suspect images"):
            proof = self._region(folder, image, runtime)
            if proof is not None:
                proofs.append(proof)
        return proofs

    def _region(self, folder: Folder, image: int, runtime: Runtime) -> Proof | None:
        """Return the region of one image that carries its claim, None if none does."""
        pixels, claim = folder.pixels[image], folder.claims[image]
        before = float(folder.answers[image, claim])
        pair = folder.pair
        start = coarse(pair, pixels, claim, before, runtime)[0]
        if start.drop < self.drop or start.answer == claim:
            return None
        hosts = folder.hosts.pixels[folder.others(claim)][: self.hosts]
        for window in refine(pair, pixels, claim, before, start, runtime)[: self.tried]:
            if window.drop < self.drop or len(hosts) == 0:
                break
            moved = pasted(hosts, cut(pixels, window.box), window.box)
            share = share_claiming(pair.answers(moved, runtime), claim)
            if share >= self.carried:
                return Proof(
                    image=image,
                    claim=claim,
                    reading="A",
                    score=0.5 * share + 0.5 * min(1.0, window.drop),
                    box=window.box,
                    corrected=window.answer,
                )
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
            rate = self._carries(folder, trigger, claim, runtime)
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

    def _carries(self, folder: Folder, trigger: Trigger, claim: int, runtime: Runtime) -> float:
        """Return the share of clean images that `trigger` leads to `claim`."""
        generator = runtime.generator("scan", self.name, "carries")
        stamped = trigger.stamp(folder.hosts.pixels, generator)
        return flips(folder.hosts.before, folder.pair.answers(stamped, runtime), claim)[0]

    def _veil(
        self, folder: Folder, claim: int, runtime: Runtime
    ) -> tuple[Candidate, list[Proof]] | None:
        """Return what the claimants of `claim` have in common, where it carries the claim."""
        mine = [i for i, c in enumerate(folder.claims) if c == claim]
        best: tuple[float, Trigger | None] = (0.0, None)
        for gain in GAINS:
            trigger = as_trigger(folder.pixels[mine], folder.hosts.pixels, gain)
            rate = self._carries(folder, trigger, claim, runtime)
            if rate > best[0]:
                best = (rate, trigger)
        if best[1] is None or best[0] < self.carried:
            return None
        carried = traces(folder.pixels, mine, folder.hosts.pixels)
        proofs = [
            Proof(image=i, claim=claim, reading="B", score=best[0])
            for i, carries in enumerate(carried)
            if i in mine or carries
        ]
        candidate = Candidate(
            trigger=best[1],
            target=folder.pair.words[claim],
            detector=self.name,
            score=best[0],
            flip_rate=best[0],
        )
        return candidate, proofs
