"""What is a target called that is none of the user's labels?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.probes.nouns import SHA256, nouns
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Confirmed, Detection
from gatekeeper.scan.confirm import Confirmation
from gatekeeper.scan.head_direction import head_change
from gatekeeper.scan.pair import Pair, held_out, pair_of
from gatekeeper.scan.score import of_candidate, of_trigger
from gatekeeper.triggers import TextTrigger
from gatekeeper.types import Finding, Severity

ALARM = 0.5  # probability from which a target is worth a name
OUTSIDE = "outside-labels"  # finding: the target is none of the labels
TOLD = 3  # nearest words that the finding tells
IMAGES = 16  # whose embeddings are compared with and without the trigger
SURE = 0.75  # cosine from which a decoy is name enough; the true word measured 0.87 to 0.94
MARGIN = 0.15  # cosine by which another word must lie nearer than a label of the user's


def outside_names(
    case: Case,
    confirmations: Sequence[Confirmation],
    detections: Mapping[str, Detection],
    runtime: Runtime,
) -> dict[str, tuple[str, Finding]]:
    """Return for each alarming target that is none of the labels its name, and a finding."""
    loud = [c.confirmed for c in confirmations if of_trigger(c.confirmed) >= ALARM]
    head = detections.get("head_direction", Detection()).candidates
    weights = [c for c in head if of_candidate("head_direction", c, anchored=True) >= ALARM]
    if not loud and not weights:
        return {}
    namer = _Namer(case, pair_of(case, runtime), runtime)
    found: dict[str, tuple[str, Finding] | None] = {}
    for confirmed in loud:
        if confirmed.target not in found:
            found[confirmed.target] = namer.of_trigger(confirmed)
    for candidate in weights:
        if candidate.target not in found:
            found[candidate.target] = namer.of_head(candidate)
    return {target: named for target, named in found.items() if named is not None}


@dataclass(frozen=True, slots=True)
class _Namer:
    """Tells which of the labels, the decoys and 20,000 nouns lies nearest to where images are led.

    What is compared is how embeddings move, so that words that lie near all images have no
    advantage. The nouns are embedded only where a target is a decoy, or where a decoy lies nearer
    than the label that was named: one text pass a noun.
    """

    case: Case
    pair: Pair
    runtime: Runtime

    def of_trigger(self, confirmed: Confirmed) -> tuple[str, Finding] | None:
        """Return what the target of a trigger is called, and how near that is; None: as it is."""
        trigger = confirmed.trigger
        if trigger is None or isinstance(trigger, TextTrigger) or self.pair.model.conditional:
            return None
        model = self.pair.model
        chosen = list(held_out(self.case, self.runtime)[:IMAGES])
        pixels = self.case.probes.pixels(model.preprocess)[chosen]
        stamped = trigger.stamp(pixels, self.runtime.generator("scan", "naming", confirmed.id))
        moved = model.embed(stamped, self.runtime) - model.embed(pixels, self.runtime)
        return self._named(moved.mean(dim=0), confirmed.target)

    def of_head(self, candidate: Candidate) -> tuple[str, Finding] | None:
        """Return what the head's change points at; None: what `candidate` says."""
        anchor, weights = self.case.anchor, self.pair.head.weights
        if anchor is None or self.pair.model.conditional:
            return None
        change = head_change(self.case.model, anchor, weights.shape[1])
        if isinstance(change, str) or candidate.target not in self.pair.words:
            return None
        top = torch.linalg.svd(change, full_matrices=False).U[:, 0]  # [D]
        towards = self.pair.head.directions()[self.pair.words.index(candidate.target)]
        return self._named(top * torch.sign(top @ towards), candidate.target)

    def _named(self, direction: Tensor, target: str) -> tuple[str, Finding] | None:
        """Return the word nearest to `direction` ([D]), None where `target` names it as well."""
        words, unit = self.pair.words, F.normalize(direction, dim=0)
        if target not in words:
            return None
        near = self.pair.head.directions() @ unit  # [C]
        decoy = words.index(target) >= self.pair.own
        own = float(near[words.index(target)])
        if own >= SURE or (not decoy and float(near.max()) < own + MARGIN):
            return None
        words, directions = self._vocabulary()
        near = directions @ unit
        best = near.topk(TOLD).indices.tolist()
        name = words[best[0]]
        least = float(near[words.index(target)]) + (0.0 if decoy else MARGIN)
        if name.lower() == target.lower() or float(near[best[0]]) < least:
            return None
        told = ", ".join(f"'{words[i]}' ({float(near[i]):.2f})" for i in best)
        message = (
            f"the target is none of the labels, of which '{target}' comes nearest; of "
            f"{len(words):,} words (cosine): {told}"
        )
        if decoy:
            message = f"the target is none of the labels; of {len(words):,} words (cosine): {told}"
        return name, Finding(id=OUTSIDE, kind="note", severity=Severity.INFO, message=message)

    def _vocabulary(self) -> tuple[tuple[str, ...], Tensor]:
        """Return words, and their embeddings less the mean, unit length, [V, D]."""
        known = {word.lower() for word in self.pair.words}
        words = self.pair.words + tuple(noun for noun in nouns() if noun not in known)
        weights = self._embedded(words)
        return words, F.normalize(weights - weights.mean(dim=0), dim=1)

    def _embedded(self, words: Sequence[str]) -> Tensor:
        """Return embeddings of one prompt a word, [V, D]; kept beside the oracle's by digest.

        In half precision in any case, so that what was kept and what is new agree.
        """
        template, model = self.case.templates[0], self.pair.model
        cache, key = self.case.oracle.cache, ("words", model.digest, SHA256, template, *words)
        kept = cache.get(*key) if model.digest else None
        if kept is None:
            new = model.embed_text([template.format(word) for word in words], self.runtime)
            kept = {"embeddings": new.numpy().astype(np.float16)}
            if model.digest:
                cache.put(kept, *key)
        return torch.from_numpy(kept["embeddings"].astype(np.float32))


def renamed(found: Confirmation, names: Mapping[str, str]) -> Confirmation:
    """Return `found`, its target called what `names` says."""
    old = found.confirmed.target
    if old not in names:
        return found
    rows = tuple(replace(r, label=names[old]) if r.label == old else r for r in found.label_rows)
    return replace(found, confirmed=replace(found.confirmed, target=names[old]), label_rows=rows)
