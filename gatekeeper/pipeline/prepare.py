"""What does a scan need? Read and check the model, the anchor, the images and the labels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gatekeeper.case import Case
from gatekeeper.errors import IntakeError, ProbeError
from gatekeeper.intake.open import Opened, open_model
from gatekeeper.oracle.cache import OracleCache
from gatekeeper.oracle.ground import Oracle
from gatekeeper.oracle.spec import build_segmenter
from gatekeeper.policy.probe_checks import check_probes
from gatekeeper.policy.schema import Policy
from gatekeeper.probes.embedded import default_labels, embedded_probes
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.load import load_labels, load_probes
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.types import Json, Severity

LABEL_WISE = 20  # clean images a label that give it a threshold of its own (conformal, 5 %)
POOLED = 20  # the fewest of which 5 % is an image; 9 passes each with an anchor
POOLED_ALONE = 20  # 25 passes each: the suspect labels for itself, square by square
MOST_CALIBRATION = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest:
    """What to scan and with what; paths are local."""

    model: Path
    uri: str  # as the user named it, for the report
    policy: Policy
    anchor: Path | None = None
    anchor_uri: str = ""
    probes: Path | None = None  # None: the embedded set
    suspects: Path | None = None
    labels: Path | None = None  # None: labels.csv of the probes, else the embedded list
    oracle: str = "regions"
    arch: str | None = None
    prompts: Path | None = None
    detectors: tuple[str, ...] = ()  # empty: all that are installed
    cache: Path | None = None  # where oracle output is kept; None: in memory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """Everything a scan needs, read and checked; nothing has been scanned yet."""

    opened: Opened
    anchor: Opened | None
    probes: ProbeSet
    case: Case | None  # None: the model could not be read without running code
    checks: Mapping[str, Json]


def prepare(request: ScanRequest, runtime: Runtime) -> Prepared:
    """Read the model, the anchor, the images and the labels; the oracle is not calibrated yet.

    Raises:
        GatekeeperError: Bad input; the message says what, where and what to do.
    """
    probes = load_probes(request.probes) if request.probes else embedded_probes()
    labels = _labels(request, probes)
    suspects = load_probes(request.suspects, name="suspects") if request.suspects else None
    checks = check_probes(probes, labels)
    anchor = _open_anchor(request)
    opened = open_model(
        request.model,
        uri=request.uri,
        arch=request.arch,
        anchor=anchor,
        prompts=request.prompts,
    )
    case: Case | None = None
    if opened.model is not None:
        case = _case(request, opened, anchor, probes, suspects, labels, runtime)
    return Prepared(opened=opened, anchor=anchor, probes=probes, case=case, checks=checks)


def calibrated(case: Case, runtime: Runtime) -> Case:
    """Return `case` with its oracle's thresholds set on a sample of the clean probes.

    All probes are used only where every label can have the 20 images that a threshold of its own
    needs; elsewhere the threshold is pooled, and more images than these do not move it.

    Raises:
        BudgetExhaustedError: The budget does not even pay for this.
    """
    probes = case.probes
    named = len({label for label in probes.labels() if label})
    own = named * LABEL_WISE if 0 < named * LABEL_WISE <= len(probes) else 0
    size = max(own, POOLED) if case.oracle.independent else POOLED_ALONE
    order = torch.randperm(len(probes), generator=runtime.generator("oracle", "calibrate"))
    sample = probes.subset(sorted(order[: min(size, MOST_CALIBRATION)].tolist()))
    return replace(case, oracle=case.oracle.calibrate(sample, runtime))


def _open_anchor(request: ScanRequest) -> Opened | None:
    if request.anchor is None:
        return None
    anchor = open_model(
        request.anchor, uri=request.anchor_uri or str(request.anchor), arch=request.arch
    )
    alarming = [f for f in anchor.findings if f.severity is Severity.CRITICAL]
    if anchor.model is None or alarming:
        why = alarming[0].message if alarming else "no CLIP could be read from it"
        raise IntakeError(
            f"anchor {anchor.ref.uri} cannot be trusted: {why}",
            hint="name the public base model that the suspect was fine-tuned from",
        )
    return anchor


def _labels(request: ScanRequest, probes: ProbeSet) -> Labels:
    if request.labels is not None:
        return load_labels(request.labels)
    names = tuple(dict.fromkeys(label for label in probes.labels() if label))
    if len(names) > 1:
        return Labels(labels=names, source="labels.csv")
    return default_labels()


def _case(
    request: ScanRequest,
    opened: Opened,
    anchor: Opened | None,
    probes: ProbeSet,
    suspects: ProbeSet | None,
    labels: Labels,
    runtime: Runtime,
) -> Case:
    if opened.model is None:
        raise ProbeError("no model to build a case of", hint="report this as a defect")
    model = opened.model.to(runtime.device)
    trusted = anchor.model.to(runtime.device) if anchor and anchor.model else None
    oracle = Oracle(
        segmenter=build_segmenter(request.oracle),
        labeler=trusted or model,
        independent=trusted is not None,
        labels=labels.labels,
        templates=labels.templates,
        cache=OracleCache(root=request.cache),
    )
    return Case(
        model=model,
        anchor=trusted,
        probes=probes,
        suspects=suspects,
        oracle=oracle,
        labels=labels.labels,
        templates=labels.templates,
    )
