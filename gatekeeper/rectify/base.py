"""What a rectifier is and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger
from gatekeeper.types import Quality


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ailment:
    """What a scan found, in the words of repair."""

    target: str
    trigger: Trigger | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prescription:
    """What is to be repaired and with what: the scan's compact set."""

    ailments: tuple[Ailment, ...]
    affected: tuple[str, ...]
    victims: tuple[tuple[str, str], ...]  # (suspect image file, true label)
    probes: tuple[int, ...]  # indices into case.probes
    begun: Mapping[str, Tensor] = field(default_factory=dict)  # weights of an earlier round


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rectified:
    """New weights and what they are worth; nothing is written yet."""

    method: str
    state: dict[str, Tensor]  # only the tensors that changed, in the suspect's dtype
    before: Quality
    after: Quality
    images_used: int
    steps: int
    held_out: int = 0  # images both qualities were measured on; not trained on
    learned: tuple[int, ...] = ()  # indices into case.probes of images a step has learned from
    against: tuple[Ailment, ...] = ()  # every trigger it was made against, the scan's first
    notes: tuple[str, ...] = ()
    prompts: Mapping[str, Tensor] = field(default_factory=dict)  # learned ones, where these changed
    image_passes: float = 0.0  # of all that was tried, proofs not counted
    proof_seconds: float = 0.0  # processor time of the proofs that the choice asked for
    proved: object | None = None  # its `proof.Proved`, where the choice of a method asked for one


@runtime_checkable
class Rectifier(Protocol):
    """A plug-in of group `gatekeeper.rectifiers`: frozen dataclass, fields are hyper-parameters."""

    name: ClassVar[str]

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return new weights for `case.model`, which stays as it is.

        Raises:
            RectifyError: The method cannot repair this; says what was tried.
        """
        ...
