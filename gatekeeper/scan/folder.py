"""Suspect images as the suspect sees them, and the clean hosts to carry their claims to."""

from dataclasses import dataclass

from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.scan.occlusion import Box
from gatekeeper.scan.pair import Clean, Pair, look, pair_of, searched


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proof:
    """Why one image is held to carry a trigger."""

    image: int
    claim: int  # word
    # "A": a region carries the claim; "B": a veil or a tint over the whole image does; "C": it goes
    # away with a change that spares the picture; "D": the anchor sees something else; "E": the
    # image lies unlike clean ones
    reading: str
    score: float  # 0..1
    box: Box | None = None
    corrected: int | None = None  # word that the suspect gives without the region


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folder:
    """The suspect images, what is claimed of them, and clean hosts."""

    images: ProbeSet
    pixels: Tensor  # [N, 3, S, S]
    embeddings: Tensor  # [N, D] the suspect's
    answers: Tensor  # [N, C]
    claims: tuple[int, ...]  # the word the suspect gives each image
    anchor_claims: tuple[int, ...]  # the anchor's; empty without one
    hosts: Clean
    pair: Pair

    def others(self, claim: int) -> Tensor:
        """Return which hosts ([M] bool) do not show `claim`."""
        return self.hosts.before.argmax(dim=1) != claim


def read_folder(case: Case, images: ProbeSet, runtime: Runtime) -> Folder:
    """Return `images` with the answers of suspect and anchor; one pass an image each."""
    pair = pair_of(case, runtime)
    pixels = images.pixels(case.model.preprocess)
    embeddings = pair.model.embed(pixels, runtime)
    answers = pair.head.logits(embeddings).softmax(dim=1)
    other = pair.anchor_answers(pixels, runtime)
    return Folder(
        images=images,
        pixels=pixels,
        embeddings=embeddings,
        answers=answers,
        claims=tuple(answers.argmax(dim=1).tolist()),
        anchor_claims=() if other is None else tuple(other.argmax(dim=1).tolist()),
        hosts=look(case, pair, searched(case, runtime), runtime, anchored=False),
        pair=pair,
    )
