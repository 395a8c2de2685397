"""What a detector is, what it returns, and what a whole scan comes to."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger
from gatekeeper.types import (
    Exhibit,
    Finding,
    LabelRow,
    Measurement,
    Reference,
    SearchStep,
    SuspectImage,
    Target,
    Victim,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A trigger that a detector believes in, and how far."""

    trigger: Trigger | None  # None: evidence that names a target but no pattern (weights)
    target: str
    detector: str
    score: float  # the detector's own evidence, 0..1, comparable within the detector
    flip_rate: float = 0.0  # on images the search has not seen
    anchor_flip_rate: float | None = None
    usual_flip_rate: float | None = None  # of like searches: to other labels, on the anchor
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detection:
    """All a detector measured, alarming or not."""

    candidates: tuple[Candidate, ...] = ()
    findings: tuple[Finding, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    suspects: tuple[SuspectImage, ...] = ()
    steps: tuple[SearchStep, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    leaning: tuple[str, ...] = ()  # labels that weights point to, most first; empty: to none
    skipped: str | None = None  # why it did not run, e.g. "no anchor"


def leaning_of(detections: Iterable[Detection]) -> tuple[str, ...]:
    """Return the labels that weights point to, most first, by the first detection that says so."""
    return next((d.leaning for d in detections if d.leaning), ())


@runtime_checkable
class Detector(Protocol):
    """A plug-in of group `gatekeeper.detectors`: frozen dataclass, fields are hyper-parameters."""

    name: ClassVar[str]

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Measure `case`. Draws come from `runtime.generator("scan", self.name, ...)`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confirmed:
    """A trigger the oracle has judged; becomes a `TriggerRecord` when written."""

    id: str  # trigger-1, trigger-2, … most probable first
    trigger: Trigger | None
    target: str
    detector: str
    flip_rate: float
    anchor_flip_rate: float | None
    oracle_agrees: float
    box: tuple[int, int, int, int] | None = None
    usual_flip_rate: float | None = None  # of like searches: to other labels, on the anchor
    judged: bool = True  # False: the oracle was not asked, `oracle_agrees` says nothing
    behind: float | None = None  # share of the labels that weights point to more; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompactSet:
    """What repair needs: EftCLIP's Algorithm 2 (arXiv:2511.13545, detection 1.3)."""

    affected: tuple[str, ...]  # labels whose images flip, and the targets
    victims: tuple[tuple[str, str], ...]  # (suspect image file, true label by the oracle)
    probes: tuple[int, ...]  # indices into case.probes of images to keep the model right on


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanOutcome:
    """All a scan found, before any policy spoke."""

    score: float | None  # probability of a backdoor, 0..1; None: nothing was evaluated
    targets: tuple[Target, ...] = ()
    victims: tuple[Victim, ...] = ()
    triggers: tuple[Confirmed, ...] = ()
    suspects: tuple[SuspectImage, ...] = ()
    findings: tuple[Finding, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    steps: tuple[SearchStep, ...] = ()
    label_rows: tuple[LabelRow, ...] = ()
    reasons: tuple[str, ...] = ()  # sentences for people, worst first
    skipped: tuple[str, ...] = ()  # "head: no anchor", …
    calibration: Reference | None = None  # the curves that made the score
    compact: CompactSet = field(
        default_factory=lambda: CompactSet(affected=(), victims=(), probes=())
    )
