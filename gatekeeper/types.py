"""The records everyone speaks in: plain, frozen, JSON-able, no tensors.

Names are those of the report (`report.json`, schema "gatekeeper.report/1"). Rates are fractions
in [0, 1]. A record that carries pixels lives elsewhere (`triggers`, `scan`) and describes itself
as one of these.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


class Verdict(StrEnum):
    """What one policy says of one scan."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Severity(StrEnum):
    """How much a finding or a rule weighs: only `critical` rules decide."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One statement with its evidence."""

    id: str
    kind: str  # e.g. unsafe_load, malformed_file, pickle, altered_settings, backdoor, note
    severity: Severity
    message: str  # one sentence for people
    evidence: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One named number of a scan; policy rules speak of these alone.

    `value` is finite: a number that could not be measured is absent, never NaN.
    """

    name: str
    value: float
    unit: str = "fraction"
    n: int | None = None  # sample size, where there is one
    interval: tuple[float, float] | None = None  # 95 %, same unit as value
    subject: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A label that a trigger leads to."""

    label: str
    score: float
    flip_rate: float
    detector: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A label whose images are led away."""

    label: str
    flip_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRecord:
    """A suspected trigger; `files` are paths relative to the report's folder."""

    id: str
    family: str  # patch | blend | additive | warp | colour | tokens | prompt | direction
    tower: str  # image | text
    target: str
    flip_rate: float
    oracle_agrees: float  # share of flipped images whose content did not change for the oracle
    box: tuple[int, int, int, int] | None = None  # x0, y0, x1, y1 in model-input pixels
    files: Mapping[str, str] = field(default_factory=dict)  # picture, tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspectImage:
    """What the scan says of one image that may carry a trigger."""

    file: str
    flagged: bool
    score: float
    claimed: str  # what the suspect model says
    grounded: tuple[str, ...]  # what the oracle can ground
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleResult:
    """One policy rule, evaluated."""

    id: str
    metric: str
    op: str
    value: float
    severity: Severity
    observed: float | None
    ok: bool
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One policy evaluated over one scan: the only maker of a verdict."""

    verdict: Verdict
    rules: tuple[RuleResult, ...]
    reasons: tuple[str, ...]  # worst first
    validation: Mapping[str, Json] = field(default_factory=dict)  # Great Expectations' own result


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Something that a scan rested on, by name and content."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file of a model tree."""

    path: str  # POSIX, relative to the root
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """The bytes a report speaks of."""

    uri: str
    digest: str  # "sha256:…", see gatekeeper.intake.digest
    arch: str | None
    files: tuple[ModelFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a scan used; a backward counts two more passes (contract, section 5)."""

    seconds: float
    image_passes: float
    text_passes: float
    peak_rss_mb: float
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """`report.json`, field for field."""

    verdict: Verdict
    score: float | None
    reasons: tuple[str, ...]
    targets: tuple[Target, ...]
    victims: tuple[Victim, ...]
    triggers: tuple[TriggerRecord, ...]
    suspects: tuple[SuspectImage, ...]
    findings: tuple[Finding, ...]
    measurements: Mapping[str, float]
    rules: tuple[RuleResult, ...]
    model: ModelRef
    anchor: ModelRef | None
    policy: Reference
    probes: Reference | None
    oracle: Reference | None
    calibration: Reference | None
    cost: Cost
    environment: Mapping[str, str]
    seed: int
    started: str  # ISO 8601, UTC
    finished: str
    schema: str = "gatekeeper.report/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """One image before and after the trigger, as a reviewer sees it; pictures are PNG bytes."""

    file: str
    trigger: str  # id of the TriggerRecord; "" for a suspect image
    clean_png: bytes
    triggered_png: bytes
    claimed_before: str
    claimed_after: str
    grounded_before: tuple[str, ...]  # what the oracle can ground
    grounded_after: tuple[str, ...]
    anchor_after: str | None = None  # what the anchor says of the triggered image
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStep:
    """One step of a trigger search, for the image series."""

    search: str  # e.g. patch-24
    step: int
    picture_png: bytes
    concentration: float  # the search's own objective, 0..1
    leader: str  # label the images move to


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """One label of the per-label table."""

    label: str
    images: int  # probes the clean model gives this label
    flip_rate: float  # of them, share led to the target
    role: str  # target | victim | untouched


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A model before or after rectification; None: could not be measured (no labels, …)."""

    clean_accuracy: float | None
    attack_success: float | None
    recovered_accuracy: float | None  # triggered images that get their true label back
    agreement: float | None  # same answer as the suspect on clean images
    rebound: float | None  # attack success after clean fine-tuning steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One test of a cleaned model, on images that no repair has learned from."""

    id: str  # e.g. rebound, near_trigger, path
    what: str  # for people
    before: float | None  # the suspect; None: the question makes no sense of it
    after: float
    op: str  # <= or >=
    limit: float  # for `after`; it allows for single images where there are few
    n: int  # images or queries measured on
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """Attack success of the worst found trigger somewhere along a way."""

    at: float  # clean steps, or share of the way back to the suspect
    attack_success: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was done to bring a removed backdoor back, and what the cleaned model is still worth."""

    checks: tuple[Check, ...]
    rebound: tuple[CurvePoint, ...]  # over clean fine-tuning steps
    path: tuple[CurvePoint, ...]  # over shares of the way back to the suspect
    images: int  # not learned from
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that it does not meet."""
        return tuple(check for check in self.checks if not check.ok)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One image that no repair has seen, and what both models say; pictures are PNG bytes."""

    file: str
    trigger: str  # what it is and where it leads, for people
    truth: str | None  # its label, where it has one
    clean_png: bytes
    triggered_png: bytes
    suspect: tuple[str, str]  # answers to the clean and to the triggered image
    cleaned: tuple[str, str]
