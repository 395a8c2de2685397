"""Is the backdoor gone for good, and is the model worth what it was? Asked before a version exists.

All of it on images that the repair has not learned from, with draws of its own. Limits and what
each check costs: docs/rectify.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.rectify import persistence, retention
from gatekeeper.rectify.base import Ailment, Prescription, Rectified
from gatekeeper.rectify.exam import Exam, exam_of
from gatekeeper.rectify.limits import Limits, at_least, at_most
from gatekeeper.rectify.persistence import Near, Return
from gatekeeper.rectify.showing import show
from gatekeeper.rectify.text_proof import marked_checks
from gatekeeper.runtime import Meter, Runtime
from gatekeeper.types import Check, CurvePoint, Proof, Reply


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proved:
    """The record of a proof, its pictures, and where to go on where it failed."""

    record: Proof
    replies: tuple[Reply, ...] = ()
    returned: tuple[Ailment, ...] = ()  # patterns that work on the cleaned model
    begun: Mapping[str, Tensor] = field(default_factory=dict)  # weights a trigger works on again
    borne: bool = False  # a pattern beside a trigger works, which is let pass as the anchor's own

    @property
    def rebound(self) -> float | None:
        """The highest attack success while a copy was fine-tuned; None without a trigger."""
        return max((point.attack_success for point in self.record.rebound), default=None)


def prove(
    case: Case,
    prescription: Prescription,
    repaired: Rectified,
    runtime: Runtime,
    limits: Limits | None = None,
) -> Proved:
    """Return what `repaired` withstands and what it kept. Changes and writes nothing.

    The meter is the proof's own: a scan's budget does not stop it half-way.

    Args:
        case: The suspect with its evidence.
        prescription: What was repaired; its triggers count where the method names none.
        repaired: The new weights, and which probes they were learned from.
        runtime: Seed, device and progress.
        limits: What must be met; the defaults where None.
    """
    runtime = replace(runtime, meter=Meter())
    exam = exam_of(case, prescription, repaired, limits or Limits(), runtime)
    back: Return | None = None
    way: tuple[tuple[float, float], ...] = ()
    beside: list[Near] = []
    checks: list[Check] = []
    if exam.held.triggers and repaired.state:
        back = persistence.rebound(exam, runtime)
        way = persistence.path(exam, runtime)
        searched = (persistence.near(exam, *one, runtime) for one in exam.held.triggers)
        beside = [one for one in searched if one is not None]
        checks = _persistence(exam, back, way, beside)
    checks += marked_checks(exam, runtime)
    checks += retention.checks(exam, runtime)
    notes = [] if repaired.learned else ["the method does not say which images it learned from"]
    if not exam.held.triggers:
        notes.append("no trigger on images was at hand: nothing could be brought back")
    return Proved(
        record=Proof(
            checks=tuple(checks),
            rebound=_points(back.curve if back else ()),
            path=_points(way),
            images=len(exam.rows),
            notes=tuple(notes),
        ),
        replies=show(exam, runtime),
        returned=tuple(
            Ailment(target=exam.head.labels[one.target], trigger=one.trigger)
            for one in beside
            if one.rate - one.usual > exam.limits.near
        ),
        begun=back.state if back and back.worst > _rebound_limit(exam) else {},
        borne=any(one.rate - one.scrambled > exam.limits.near for one in beside),
    )


def _persistence(
    exam: Exam, back: Return, way: tuple[tuple[float, float], ...], beside: list[Near]
) -> list[Check]:
    n = len(exam.rows)
    within = f"Attack success within {persistence.LOOKS[-1]} clean fine-tuning steps"
    share = "Share of the way back to the suspect at which a trigger works again"
    returns = persistence.returns_at(way)
    found = [
        at_most("rebound", within, None, back.worst, _rebound_limit(exam), n),
        at_least("path", share, 0.0, returns, exam.limits.returns_at, n),
    ]
    if beside:
        led = "Images led by a pattern next to the trigger, beyond what is usual"
        excess = max(0.0, *(one.rate - one.usual for one in beside))
        found.append(at_most("near_trigger", led, None, excess, exam.limits.near, n))
    return found


def _rebound_limit(exam: Exam) -> float:
    return exam.limits.led(exam.limits.rebound, len(exam.rows))


def _points(curve: tuple[tuple[float, float], ...]) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(at=at, attack_success=rate) for at, rate in curve)
