"""What a detector or a rectifier is handed: model, anchor, probes, suspects, oracle, labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatekeeper.clip.model import ClipModel
from gatekeeper.oracle.ground import Oracle
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One model under scan and all the evidence at hand."""

    model: ClipModel  # the suspect
    anchor: ClipModel | None
    probes: ProbeSet  # clean images the gate trusts
    suspects: ProbeSet | None  # images that may carry a trigger
    oracle: Oracle
    labels: tuple[str, ...]  # unique names, in the user's order
    templates: tuple[str, ...]  # with one {} each
    _seen: dict[tuple[ClipModel, int], Tensor] = field(default_factory=dict, init=False)

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """Return these probes as the suspect takes them, [N, 3, S, S]."""
        return self.probes.pixels(self.model.preprocess)[list(rows)]

    def embedded(self, model: ClipModel, rows: Sequence[int], runtime: Runtime) -> Tensor:
        """Return `model`'s unit embeddings [N, D] of these clean probes, each computed once."""
        missing = [row for row in dict.fromkeys(rows) if (model, row) not in self._seen]
        if missing:
            seen = model.embed(model.resized(self.pixels(missing)), runtime)
            self._seen.update({(model, r): z for r, z in zip(missing, seen, strict=True)})
        return torch.stack([self._seen[model, row] for row in rows])
