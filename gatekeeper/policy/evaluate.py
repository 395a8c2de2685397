"""What does one policy say of one scan? The only maker of a verdict.

In this order (docs/policy.md):

1. a critical rule over `static.*` is broken by a measured value: fail. Files need no probes;
2. nothing was evaluated, only files were read, or fewer probes than `min_probes`: inconclusive;
3. any other critical rule is broken, or its measurement is missing: fail;
4. else pass.
"""

import math
from collections.abc import Mapping, Sequence

from gatekeeper.errors import PolicyError
from gatekeeper.policy.expectations import check_rules
from gatekeeper.policy.metrics import METRICS, is_static
from gatekeeper.policy.schema import Policy, Rule
from gatekeeper.types import Evaluation, RuleResult, Severity, Verdict

_ASKS = {"<=": "at most", "<": "below", ">=": "at least", ">": "above", "==": "exactly"}


def evaluate(
    policy: Policy,
    measurements: Mapping[str, float],
    *,
    probes: int,
    evaluated: bool = True,
    static_only: bool = False,
    embedded: bool = False,
    explain: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Return the verdict of `policy` over the finite `measurements` of one scan.

    Args:
        policy: The policy.
        measurements: Name to value, as many as were made. Names beyond `METRICS` (a plug-in's)
            are evaluated by no rule.
        probes: Images that the scan evaluated.
        evaluated: Whether the scan ran to its end (False: out of budget, no text tower, …).
        static_only: Whether only files were read, because no model could be opened.
        embedded: Whether the probes are the set that ships with the package: they count like
            others, and a sentence about their number says so.
        explain: By measurement, a sentence about what was found, told with a broken rule.
        notes: Sentences that every verdict carries, e.g. that the embedded probes were used.

    Raises:
        PolicyError: A value is not finite, or Great Expectations failed: no verdict then.
    """
    _check(measurements, probes)
    checked = check_rules(policy.rules, measurements)
    results = tuple(_result(r, checked.ok[r.id], measurements) for r in policy.rules)
    gaps = _gaps(policy, probes, embedded, evaluated, static_only)
    verdict = _verdict(results, gaps)
    told = _reasons(policy.rules, results, verdict, gaps, explain or {})
    return Evaluation(
        verdict=verdict,
        rules=results,
        reasons=(*told, *notes),
        validation=checked.validation,
    )


def _result(rule: Rule, ok: bool, measurements: Mapping[str, float]) -> RuleResult:
    return RuleResult(
        id=rule.id,
        metric=rule.metric,
        op=rule.op,
        value=rule.value,
        severity=rule.severity,
        observed=float(measurements[rule.metric]) if rule.metric in measurements else None,
        ok=ok,
        why=rule.why,
    )


def _check(measurements: Mapping[str, float], probes: int) -> None:
    for name, value in measurements.items():
        if isinstance(value, bool) or not math.isfinite(value):
            raise PolicyError(
                f"measurement '{name}' is {value}, expected a finite number",
                hint="leave out what could not be measured; its rules then fail",
            )
    if probes < 0:
        raise PolicyError(f"{probes} probes evaluated?", hint="count the images, from 0")


def _gaps(
    policy: Policy, probes: int, embedded: bool, evaluated: bool, static_only: bool
) -> tuple[str, ...]:
    """Return why this scan cannot acquit anybody, in sentences."""
    least = policy.evidence.min_probes
    if static_only:
        return ("Only the files were read: no model could be opened, so nothing was measured.",)
    if not evaluated:
        return ("The scan did not run to its end, so its silence proves nothing.",)
    if probes < least:
        return (
            f"{probes} {'embedded ' if embedded else ''}probe image{'' if probes == 1 else 's'} "
            f"evaluated, the policy asks for at least {least}.",
        )
    return ()


def _verdict(results: Sequence[RuleResult], gaps: Sequence[str]) -> Verdict:
    critical = [r for r in results if r.severity is Severity.CRITICAL]
    if any(not r.ok and r.observed is not None and is_static(r.metric) for r in critical):
        return Verdict.FAIL
    if gaps or not critical:
        return Verdict.INCONCLUSIVE
    return Verdict.PASS if all(r.ok for r in critical) else Verdict.FAIL


def _reasons(
    rules: Sequence[Rule],
    results: Sequence[RuleResult],
    verdict: Verdict,
    gaps: Sequence[str],
    explain: Mapping[str, str],
) -> tuple[str, ...]:
    """Return sentences, what decided first, then other broken rules, then warnings."""
    broken = [r for r in results if not r.ok and not (gaps and r.observed is None)]
    rank = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}
    order = {rule.id: i for i, rule in enumerate(rules)}
    broken.sort(key=lambda r: (rank[r.severity], r.observed is None, order[r.id]))
    told = [_sentence(result, explain) for result in broken]
    if verdict is Verdict.INCONCLUSIVE:
        return (*gaps, *told)
    if verdict is Verdict.FAIL:
        return (*told, *gaps)
    decided = sum(r.severity is Severity.CRITICAL for r in results)
    holds = (
        "The one critical rule holds." if decided == 1 else f"All {decided} critical rules hold."
    )
    return (holds, *told)


def _sentence(result: RuleResult, explain: Mapping[str, str]) -> str:
    unit, meaning = METRICS[result.metric]
    lead = "" if result.severity is Severity.CRITICAL else f"{result.severity.value.title()}: "
    bound = f"{_ASKS[result.op]} {_number(result.value, unit)}"
    if result.observed is None:
        return (
            f"{lead}{result.metric} ({meaning}) was not measured; rule {result.id} asks for "
            f"{bound}, and a missing measurement fails its rule."
        )
    found = explain.get(result.metric, "")
    return (
        f"{lead}{found + ' ' if found else ''}{result.metric} is "
        f"{_number(result.observed, unit)}, rule {result.id} asks for {bound}."
    )


def _number(value: float, unit: str) -> str:
    if unit == "count":
        return f"{value:g}"
    # Enough digits that a value just beyond its bound does not print as the bound.
    return f"{value:.3g}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"
