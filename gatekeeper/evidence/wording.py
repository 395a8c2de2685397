"""How are the report's numbers said? The same words on every page and in every format."""

import shlex
from dataclasses import dataclass

from gatekeeper.evidence.text import printable
from gatekeeper.types import RuleResult, ScanReport, Severity, Verdict

VERDICT_WORDS = {
    Verdict.PASS: "Pass",
    Verdict.FAIL: "Fail",
    Verdict.INCONCLUSIVE: "Inconclusive",
}
_OPS = {"<=": "at most", "<": "below", ">=": "at least", ">": "above", "==": "exactly"}


def headline(report: ScanReport) -> str:
    """Return the one sentence that says why."""
    if report.reasons:
        return report.reasons[0]
    return "The policy gave no reason."


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """What a reader may do about a verdict."""

    sentence: str
    command: str | None = None


def next_step(report: ScanReport, rescan: ScanReport | None = None, refused: str = "") -> NextStep:
    """Return what to do about this verdict.

    `rescan` is the scan of its cleaned version, `refused` what else speaks against that one.
    """
    if refused:
        return NextStep(sentence=f"ask its maker for a clean one. {refused}")
    if rescan is not None and rescan.verdict is Verdict.PASS:
        return NextStep(sentence="use the cleaned version: it has passed a scan of its own.")
    if rescan is not None:
        return NextStep(sentence="ask its maker for a clean one: no repair passed its own scan.")
    model = shlex.quote(printable(report.model.uri))
    if report.verdict is Verdict.PASS:
        if report.model.uri.startswith("models:/"):
            return NextStep(
                sentence="promote it; the gate finds this decision by the model's digest.",
                command=f"gatekeeper promote {model} --alias production",
            )
        return NextStep(sentence="register it and promote it; the decision goes with its digest.")
    if report.verdict is Verdict.INCONCLUSIVE:
        return NextStep(
            sentence="scan again with more clean images of your own domain, and with the public "
            "base model as anchor where there is one.",
            command=f"gatekeeper scan {model} --probes FOLDER --anchor MODEL",
        )
    if report.score is None:
        return NextStep(
            sentence="ask its maker for the same weights as safetensors, with the settings of the "
            "public model, and scan those."
        )
    return NextStep(
        sentence="make a cleaned version, which is scanned again before anyone may use it.",
        command=f"gatekeeper rectify {model} --report report.json",
    )


def repeat_command(report: ScanReport) -> str:
    """Return the command that repeats this scan, as far as the report tells."""
    parts = ["gatekeeper scan", shlex.quote(printable(report.model.uri))]
    if report.anchor is not None:
        parts += ["--anchor", shlex.quote(printable(report.anchor.uri))]
    if report.oracle is not None:
        parts += ["--oracle", shlex.quote(printable(report.oracle.name))]
    return " ".join([*parts, "--seed", str(report.seed)])


def percent(rate: float | None) -> str:
    """Return a fraction as text for people: `97 %`, `<1 %`, a dash where there is none."""
    if rate is None:
        return "\u2013"
    if 0 < rate < 0.01:
        return "<1 %"
    if 0.99 < rate < 1:
        return ">99 %"
    return f"{rate * 100:.0f} %"


def number(value: float | None) -> str:
    """Return a measurement as text: counts whole, others with three digits."""
    if value is None:
        return "not measured"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:.0f}"
    return f"{value:.3g}"


def bound(rule: RuleResult) -> str:
    """Return what a rule asks for: `at most 0.5`."""
    return f"{_OPS.get(rule.op, rule.op)} {number(rule.value)}"


def rule_sentence(rule: RuleResult) -> str:
    """Return one rule as a sentence."""
    observed = "was not measured" if rule.observed is None else f"is {number(rule.observed)}"
    return f"{rule.metric} {observed}, asked: {bound(rule)}. {rule.why}".rstrip()


def rule_state(rule: RuleResult) -> str:
    """Return `ok`, `broken`, `warning` (broken, but not critical) or `missing` (not measured)."""
    if rule.ok:
        return "ok"
    if rule.observed is None:
        return "missing"
    return "broken" if rule.severity is Severity.CRITICAL else "warning"


def weight(rule: RuleResult, report: ScanReport) -> Severity:
    """Return how much a broken rule weighs in this report.

    Where nothing was evaluated, what is missing is a consequence, not a charge of its own.
    """
    if rule.observed is None and report.score is None:
        return Severity.INFO
    return rule.severity


def size(count: float) -> str:
    """Return bytes as text for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""


def duration(seconds: float) -> str:
    """Return seconds as text for people: `48 s`, `2 min 05 s`, `1 h 04 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(digest: str, *, digits: int = 12) -> str:
    """Return the start of a digest, enough to tell two apart by eye."""
    scheme, _, rest = digest.rpartition(":")
    kept = rest[:digits] + ("…" if len(rest) > digits else "")
    return f"{scheme}:{kept}" if scheme else kept
