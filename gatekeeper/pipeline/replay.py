"""What would this policy say of scans that are already stored? Nothing is scanned again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gatekeeper.errors import GatekeeperError
from gatekeeper.evidence.report_json import from_json
from gatekeeper.policy.evaluate import evaluate
from gatekeeper.policy.schema import Policy
from gatekeeper.types import Evaluation, ScanReport, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One stored report under another policy."""

    file: Path
    report: ScanReport
    evaluation: Evaluation

    @property
    def flipped(self) -> bool:
        """Whether this policy says something else than the one the report was made under."""
        return self.evaluation.verdict is not self.report.verdict

    @property
    def verdict(self) -> Verdict:
        """What this policy says."""
        return self.evaluation.verdict


def replay(policy: Policy, paths: Sequence[Path]) -> tuple[Replay, ...]:
    """Return what `policy` says of every `report.json` in `paths` (files, or folders at any depth).

    Raises:
        GatekeeperError: No report there, or one that cannot be read.
    """
    return tuple(_replayed(policy, file) for path in paths for file in _reports(path))


def _reports(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = sorted(path.rglob("report.json"))
    if not found:
        raise GatekeeperError(
            f"{path} holds no report.json", hint="name the --output folder of `gatekeeper scan`"
        )
    yield from found


def _replayed(policy: Policy, file: Path) -> Replay:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GatekeeperError(
            f"{file} cannot be read: {error}", hint="name a report.json of `gatekeeper scan`"
        ) from error
    report = from_json(text, origin=str(file))
    evaluation = evaluate(
        policy,
        report.measurements,
        probes=int(report.measurements.get("probes.count", 0)),
        evaluated=report.score is not None,
    )
    return Replay(file=file, report=report, evaluation=evaluation)
