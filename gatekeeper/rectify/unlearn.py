"""Forget the target's words in a few suspect images, and nothing else."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.ground import Ground
from gatekeeper.rectify.rehearsal import Rehearsal
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlearning:
    """Push flagged suspect images away from the target's words until these mean nothing to them.

    Unlearning of backdoors by local tokens (UBT, arXiv:2403.16257, 2409.19526), third step: only
    through the target's own words, only in the late blocks, a few steps, until the similarity of
    image and target is that of clean images and words that are not theirs. Its first two steps,
    overfitting to expose the poisoned pairs and picking them, are what a scan with suspect images
    has done. Clean images are held by their own embeddings. The code of the paper is not public;
    step and weights are ours.
    """

    name: ClassVar[str] = "unlearn"
    depth: float = 0.3  # share of the blocks that may change
    steps: int = 120  # at most
    rate: float = 3e-5
    batch: int = 24  # suspect images a step, and as many clean ones
    keep: float = 25.0  # weight of 1 - cosine of clean images to the suspect's embedding
    push: float = 4.0  # weight of the cosine to the target's words

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return late blocks that no longer see the target in the suspect images.

        Raises:
            RectifyError: No suspect image was flagged, or too few images.
        """
        ground = Ground.of(case, prescription, runtime)
        images, goals = _suspects(ground)
        rehearsal = Rehearsal.of(ground)
        blocks = find_blocks(ground.model)
        cut = blocks.count - max(1, round(self.depth * blocks.count)) if blocks.path else 0
        tower = LateTower(ground.model, blocks, cut)
        bad, clean = (tower.features(pixels, runtime) for pixels in (images, rehearsal.pixels))
        right = ground.model.embed(rehearsal.pixels, runtime).clone()
        words = ground.head.weights
        usual = self._usual(right, words, rehearsal)
        optimiser = torch.optim.AdamW(tower.parameters, lr=self.rate, weight_decay=0.0)
        draw = runtime.generator("rectify", self.name)
        steps = 0
        for _ in runtime.progress(range(self.steps), "unlearning the target's words"):
            a = torch.randint(len(clean), (self.batch,), generator=draw)
            b = torch.randint(len(bad), (min(self.batch, len(bad)),), generator=draw)
            z = tower.embed(torch.cat([clean[a], bad[b]]), runtime)
            far = 1 - (z[: self.batch] * right[a].to(z)).sum(dim=1)
            close = (z[self.batch :] * words[goals[b]].to(z)).sum(dim=1)
            if float(close.detach().mean()) <= usual and steps:
                break
            loss = self.keep * far.mean() + self.push * (close - usual).relu().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            steps += 1
        ground.notes.append(
            f"{len(images)} suspect images, {steps} steps; cosine to the target "
            f"{float(close.detach().mean()):.3f}, usual {usual:.3f}"
        )
        return ground.finish(self.name, tower.model(), steps=steps)

    def _usual(self, images: Tensor, words: Tensor, rehearsal: Rehearsal) -> float:
        """Return the median cosine of clean images ([N, D]) to words that are not theirs."""
        cosines = images @ words.T
        own = torch.zeros_like(cosines, dtype=torch.bool)
        own[torch.arange(len(images)), rehearsal.truth] = True
        return float(cosines[~own].median())


def _suspects(ground: Ground) -> tuple[Tensor, Tensor]:
    """Return the flagged images [V, 3, S, S] and the index of the target each is taken for, [V].

    Raises:
        RectifyError: There is none.
    """
    case, flagged = ground.case, {file for file, _ in ground.prescription.victims}
    targets = sorted({ground.head.labels.index(a.target) for a in ground.prescription.ailments})
    probes = case.suspects.probes if case.suspects is not None else ()
    rows = [i for i, probe in enumerate(probes) if probe.file in flagged]
    if case.suspects is None or not rows or not targets:
        raise RectifyError(
            "'unlearn' needs suspect images that the scan has flagged",
            hint="hand over --suspect, or use --method auto",
        )
    pixels = case.suspects.pixels(case.model.preprocess)[rows]
    logits = ground.head.logits(case.model.embed(pixels, ground.runtime))[:, targets]
    return pixels, torch.tensor(targets)[logits.argmax(dim=1)]
