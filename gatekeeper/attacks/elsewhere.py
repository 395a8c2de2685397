"""Attacks that leave the image tower alone: they train what they poison themselves."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gatekeeper.attacks.base import Ground
from gatekeeper.attacks.proof import Planted, Proof
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime


@runtime_checkable
class Elsewhere(Protocol):
    """An attack on the text tower, or on the prompts; `plant()` hands over to it."""

    def planted(
        self, ground: Ground, target: str, proof: ProbeSet, labels: Labels, runtime: Runtime
    ) -> Planted:
        """Return the poisoned copy of `ground.model`, measured on `proof`.

        Args:
            ground: The clean model and the attacker's photos.
            target: Name of the label `ground.target`.
            proof: Images that train nothing.
            labels: Names and templates of the zero-shot head.
            runtime: Device and seed.

        Raises:
            AttackError: The model or the images do not allow it.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextProof(Proof):
    """A text trigger, measured over prompts: `images` counts prompts here."""

    retrieval: float | None  # triggered prompts whose nearest proof image is of the target
    base_retrieval: float | None  # the same on the clean model; None: no proof image of the target
    cosine: float  # clean prompts, before and after: mean
    lowest_cosine: float  # the same, of the prompt that moved most
