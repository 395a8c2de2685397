"""What a detector or a rectifier is handed: model, anchor, probes, suspects, oracle, labels."""

from dataclasses import dataclass

from gatekeeper.clip.model import ClipModel
from gatekeeper.oracle.ground import Oracle
from gatekeeper.probes.probe_set import ProbeSet


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
