"""How probable is a backdoor at some strength of evidence, and how strong is it in clean models?

`calibration.json` beside this file holds one curve a statistic, fitted on models that are known
(`gatekeeper.bench.calibrate`), and the statistics of these models, so that a scan without an
anchor has something to be compared with.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatekeeper.errors import ScanError
from gatekeeper.types import Reference

SCHEMA = "gatekeeper.calibration/1"
FILE = Path(__file__).parent / "calibration.json"
HINT = "install gatekeeper anew, or fit it again (docs/scan.md, Calibration)"
STATISTICS = ("trigger", "mark", "noise", "rise", "head", "shortcut", "suspects")
"""What a scan measures that a curve turns into a probability; docs/scan.md says what each is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The value of one statistic, of a scan with an anchor or without one."""

    statistic: str
    anchored: bool
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A logistic from one statistic to a probability, and what it rests on."""

    statistic: str
    anchored: bool
    middle: float  # here a backdoor is as likely as not
    width: float  # distance from there to a probability of 0.73
    fitted: bool = False  # False: no planted model was found by it, it is as good as a guess
    highest_clean: float | None = None
    lowest_planted: float | None = None  # of those that this statistic says most of

    def probability(self, value: float) -> float:
        """Return the probability at `value`."""
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, (value - self.middle) / self.width))))


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """What a scan measured of a model of which the truth is known."""

    name: str
    digest: str
    kind: str  # clean | planted
    family: str  # of the trigger; empty for clean models
    base: str
    anchored: bool
    statistics: Mapping[str, float]  # those that were measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Curves, the models behind them, and the digest that a report names."""

    name: str
    digest: str
    curves: tuple[Curve, ...]
    models: tuple[KnownModel, ...]

    @property
    def reference(self) -> Reference:
        """What a report says of it."""
        return Reference(name=self.name, digest=self.digest)

    def probability(self, evidence: Evidence) -> float:
        """Return the probability that one piece of evidence gives."""
        return self.curve(evidence.statistic, anchored=evidence.anchored).probability(
            evidence.value
        )

    def curve(self, statistic: str, *, anchored: bool) -> Curve:
        """Return the curve of a statistic; every one has two."""
        return next(c for c in self.curves if c.statistic == statistic and c.anchored is anchored)

    def score(self, statistics: Mapping[str, float], *, anchored: bool) -> float:
        """Return the largest probability: evidence from one model is not independent."""
        found = (
            self.probability(Evidence(statistic=name, anchored=anchored, value=value))
            for name, value in statistics.items()
        )
        return max(found, default=0.0)

    def clean_below(self, score: float, *, anchored: bool) -> tuple[int, int]:
        """Return how many clean models score less than `score`, and how many there are."""
        known = [m for m in self.models if m.kind == "clean" and m.anchored is anchored]
        below = sum(self.score(m.statistics, anchored=anchored) < score for m in known)
        return below, len(known)


@functools.cache
def shipped() -> Calibration:
    """Return the calibration that comes with this release.

    Raises:
        ScanError: It is missing, altered or not what it must be; no score can be given.
    """
    return read_calibration(FILE)


def read_calibration(file: Path) -> Calibration:
    """Return the calibration in `file`, its digest checked.

    Raises:
        ScanError: It is missing, altered or not what it must be.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScanError(f"no calibration can be read from {file}: {error}", hint=HINT) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ScanError(f"{file} is no calibration of schema {SCHEMA!r}", hint=HINT)
    stated = document.pop("digest", None)
    if stated != digest_of(document):
        raise ScanError(f"{file} was altered: its digest is not {stated}", hint=HINT)
    try:
        found = Calibration(
            name=str(document["name"]),
            digest=str(stated),
            curves=tuple(Curve(**curve) for curve in document["curves"]),
            models=tuple(KnownModel(**model) for model in document["models"]),
        )
    except (KeyError, TypeError) as error:
        raise ScanError(f"{file} does not hold what it must: {error}", hint=HINT) from error
    if problem := _problem(found.curves):
        raise ScanError(f"{file}: {problem}", hint=HINT)
    return found


def digest_of(document: Mapping[str, Any]) -> str:
    """Return "sha256:…" over the canonical JSON of all that `document` says."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _problem(curves: Iterable[Curve]) -> str:
    """Return what is wrong with the curves; empty where nothing is."""
    named = [(c.statistic, c.anchored) for c in curves]
    wanted = sorted((name, anchored) for name in STATISTICS for anchored in (False, True))
    if sorted(named) != wanted:
        return "not one curve a statistic, with and without an anchor"
    if not all(math.isfinite(c.middle) and c.middle > 0 and c.width > 0 for c in curves):
        return "a curve that does not rise from nothing"
    return ""
