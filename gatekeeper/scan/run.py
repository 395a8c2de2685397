"""One scan: every detector in turn, candidates confirmed by the oracle, all brought together."""

import logging
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from gatekeeper.case import Case
from gatekeeper.errors import BudgetExhaustedError, OracleError
from gatekeeper.registry import Registry
from gatekeeper.runtime import Runtime
from gatekeeper.scan import score as scores
from gatekeeper.scan.base import Candidate, Detection, Detector, ScanOutcome, leaning_of
from gatekeeper.scan.basics import count_probes, judge_clean, strange
from gatekeeper.scan.calibration import shipped
from gatekeeper.scan.confirm import Confirmation, confirm, unconfirmed
from gatekeeper.scan.naming import outside_names, renamed
from gatekeeper.scan.outcome import bring_together
from gatekeeper.scan.pair import MIN_PROBES, held_out, look, pair_of
from gatekeeper.scan.score import best_by_target
from gatekeeper.scan.text_confirm import confirm_mark
from gatekeeper.scan.trigger_search import WEAK
from gatekeeper.triggers import TextTrigger
from gatekeeper.types import Finding, Measurement, Severity

logger = logging.getLogger(__name__)

# Cheap before dear; what comes later may build on what came before.
BUILT_IN = (
    "suspect_images",
    "head_direction",
    "shortcuts",
    "text_search",
    "random_patterns",
    "prompt_search",
    "trigger_search",
)
CONFIRMED = 3  # triggers at most, on images and in prompts each


@runtime_checkable
class Follower(Protocol):
    """A detector that builds on what earlier ones found; called in place of `detect`."""

    def follow(self, case: Case, earlier: tuple[Detection, ...], runtime: Runtime) -> Detection:
        """Measure `case`, knowing the detections before."""
        ...


@dataclass(slots=True)
class Gathered:
    """What a scan has so far."""

    detections: dict[str, Detection] = field(default_factory=dict)
    confirmations: list[Confirmation] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    incomplete: bool = False  # a detector failed or the budget ran out
    unfit: bool = False  # nothing follows from these probes, or from so much, without an anchor


def scan(case: Case, detectors: tuple[str, ...], runtime: Runtime) -> ScanOutcome:
    """Return all that `detectors` (empty: all that are installed) find in `case`.

    The score is None, which makes any verdict inconclusive, where nothing was evaluated, where
    there are fewer than 8 images, where the model makes nothing of these images, and where a
    detector failed or the budget ran out before something decisive was found.

    Raises:
        PluginError: A name in `detectors` is unknown, or a plug-in does not load.
        ScanError: The calibration that comes with this release cannot be read.
    """
    shipped()  # no scan without a calibration: what it found could not be told from nothing
    plugins = _load(detectors)
    anchored = case.anchor is not None
    gathered = Gathered(measurements=list(count_probes(case)))
    if len(case.probes) < MIN_PROBES:
        gathered.incomplete = True
        message = f"{len(case.probes)} probes are too few, a scan needs {MIN_PROBES}"
        gathered.findings.append(_finding("few-probes", message, Severity.WARNING))
        return bring_together(case, gathered, runtime)
    try:
        clean = judge_clean(case, runtime)
        gathered.measurements += clean
        if why := strange(clean, anchored=anchored):
            gathered.unfit = True
            gathered.findings.append(_finding("strange-probes", why, Severity.WARNING))
        for name, plugin in plugins:
            found = _detect(name, plugin, case, gathered, runtime)
            gathered.detections[name] = found
            gathered.unfit |= any(f.id == WEAK for f in found.findings)
        _confirm_all(case, gathered, runtime)
        _name_all(case, gathered, runtime)
    except BudgetExhaustedError as error:
        gathered.incomplete = True
        gathered.findings.append(_finding("budget", error.message, Severity.WARNING))
        if not gathered.confirmations:
            gathered.confirmations = [
                unconfirmed(c, n)
                for n, c in enumerate(_candidates(gathered, anchored=anchored), start=1)
            ]
    return bring_together(case, gathered, runtime)


def _load(names: tuple[str, ...]) -> list[tuple[str, Detector]]:
    registry: Registry[Detector] = Registry("gatekeeper.detectors")
    wanted = names or registry.names()
    order = {name: place for place, name in enumerate(BUILT_IN)}
    ranked = sorted(dict.fromkeys(wanted), key=lambda n: (order.get(n, len(order)), n))
    return [(name, registry.load(name)()) for name in ranked]


def _detect(
    name: str, plugin: Detector, case: Case, gathered: Gathered, runtime: Runtime
) -> Detection:
    """Return what `plugin` finds; its failure is a finding and leaves the scan inconclusive.

    Raises:
        BudgetExhaustedError: The passes allowed are used up.
    """
    try:
        if isinstance(plugin, Follower):
            earlier = tuple(_of_images(d) for d in gathered.detections.values())
            return plugin.follow(case, earlier, runtime)
        return plugin.detect(case, runtime)
    except BudgetExhaustedError:
        raise
    except Exception as error:
        logger.exception("detector %s failed", name)
        gathered.incomplete = True
        message = f"detector '{name}' failed: {error}"
        gathered.findings.append(_finding(f"detector-{name}", message, Severity.CRITICAL))
        return Detection(skipped="failed")


def _candidates(gathered: Gathered, *, anchored: bool) -> list[Candidate]:
    """Return the strongest candidate with a trigger of each target, best first; then the marks.

    A pattern that was drawn blindly stands in only for a target that nobody searched for.
    """
    found = {
        name: [c for c in _of_images(d).candidates if c.trigger is not None]
        for name, d in gathered.detections.items()
    }
    blind = found.pop("random_patterns", [])
    best = best_by_target([c for cs in found.values() for c in cs])
    known = {c.target for c in best}
    likely = [
        c for c in blind if scores.of_candidate("random_patterns", c, anchored=anchored) >= 0.5
    ]
    best += [c for c in best_by_target(likely) if c.target not in known]
    marks = [
        c
        for d in gathered.detections.values()
        for c in d.candidates
        if isinstance(c.trigger, TextTrigger)
    ]
    return best[:CONFIRMED] + best_by_target(marks)[:CONFIRMED]


def _of_images(detection: Detection) -> Detection:
    """Return `detection` without marks in prompts: no search over images can start from one."""
    kept = tuple(c for c in detection.candidates if not isinstance(c.trigger, TextTrigger))
    return replace(detection, candidates=kept)


def _confirm_all(case: Case, gathered: Gathered, runtime: Runtime) -> None:
    candidates = _candidates(gathered, anchored=case.anchor is not None)
    if not candidates:
        return
    pair = pair_of(case, runtime)
    clean = None
    for number, candidate in enumerate(candidates, start=1):
        if candidate.target not in pair.words:  # a plug-in's own idea: nothing to count flips to
            gathered.confirmations.append(unconfirmed(candidate, number))
            continue
        if isinstance(candidate.trigger, TextTrigger):
            marked = confirm_mark(case, candidate, candidate.trigger, number, runtime)
            gathered.confirmations.append(marked)
            continue
        clean = clean or look(case, pair, held_out(case, runtime), runtime)
        try:
            judged = confirm(case, pair, clean, candidate, number, runtime)
        except OracleError as error:
            gathered.incomplete = True
            gathered.findings.append(_finding("oracle", str(error), Severity.CRITICAL))
            judged = unconfirmed(candidate, number)
        gathered.confirmations.append(_placed(judged, gathered))


def _placed(judged: Confirmation, gathered: Gathered) -> Confirmation:
    """Return `judged` with its target's place among the labels that weights point to."""
    leaning = leaning_of(gathered.detections.values())
    target = judged.confirmed.target
    if target not in leaning:
        return judged
    behind = leaning.index(target) / len(leaning)
    return replace(judged, confirmed=replace(judged.confirmed, behind=behind))


def _name_all(case: Case, gathered: Gathered, runtime: Runtime) -> None:
    """Give alarming targets that are none of the labels the nearest name there is."""
    named = outside_names(case, gathered.confirmations, gathered.detections, runtime)
    gathered.findings += [finding for _, finding in named.values()]
    names = {target: name for target, (name, _) in named.items()}
    gathered.confirmations = [renamed(c, names) for c in gathered.confirmations]
    gathered.detections = {
        detector: replace(
            found,
            candidates=tuple(
                replace(c, target=names.get(c.target, c.target)) for c in found.candidates
            ),
        )
        for detector, found in gathered.detections.items()
    }


def _finding(name: str, message: str, severity: Severity) -> Finding:
    return Finding(id=name, kind="note", severity=severity, message=message)
