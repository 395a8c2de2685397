"""What came of a fire drill: who was stopped, and by what."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Stopped(StrEnum):
    """What stopped a planted model, worst first."""

    NOTHING = "nothing: it was promoted"
    MARK = "the drill mark alone: the scan passed it"
    UNSCANNED = "no scan yet"
    INCONCLUSIVE = "an inconclusive scan"
    VERDICT = "the verdict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one planted model fared."""

    model: str
    version: int
    attack: str
    target: str
    first_answer: str  # to the promotion before any scan, first line
    last_answer: str  # and after it
    verdict: str | None
    score: float | None
    named: tuple[str, ...]  # targets that the scan named
    stopped_by: Stopped

    @property
    def caught(self) -> bool:
        """Whether the scan's verdict stopped it."""
        return self.stopped_by is Stopped.VERDICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """How one clean model fared: a gate that refuses everything has caught nothing."""

    model: str
    version: int
    verdict: str | None
    score: float | None
    promoted: bool


@dataclass(slots=True, kw_only=True)
class DrillReport:
    """What came of a drill."""

    name: str  # of the registered model
    alias: str
    outcomes: list[Outcome] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)  # what could not be cleaned up

    @property
    def exit_code(self) -> int:
        """0: the verdict stopped every one; 1: one got past the scan; 3: a scan is missing."""
        found = {outcome.stopped_by for outcome in self.outcomes}
        if found & {Stopped.NOTHING, Stopped.MARK}:
            return 1
        return 3 if found & {Stopped.UNSCANNED, Stopped.INCONCLUSIVE} else 0

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "schema": "gatekeeper.drill/1",
            "model": self.name,
            "alias": self.alias,
            "caught": sum(outcome.caught for outcome in self.outcomes),
            "planted": len(self.outcomes),
            "outcomes": [
                {**asdict(one), "stopped_by": one.stopped_by.name.lower(), "caught": one.caught}
                for one in self.outcomes
            ],
            "controls": [asdict(one) for one in self.controls],
            "left_behind": self.left_behind,
        }
