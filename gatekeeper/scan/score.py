"""How probable is a backdoor, given the strongest thing that was measured?"""

from collections.abc import Iterable, Mapping, Sequence

from gatekeeper.scan.base import Candidate, Confirmed, Detection
from gatekeeper.scan.calibration import Evidence, shipped
from gatekeeper.triggers import TextTrigger

ORACLE_SHIFT = 0.15  # flip rate that full agreement of the oracle adds, and full disagreement takes
# Flip rate that is added where the head's change from the anchor points to the trigger's target
# more than to any other label, and taken where it points to a fifth of the labels more; nothing
# where it is a tenth. Without an anchor nothing is: there the first label is searched by name.
LEAN_SHIFT, EVEN = 0.15, 0.1
# Detectors whose own statistic says something beside the triggers that they found.
_STATISTIC = {
    "random_patterns": "rise",
    "head_direction": "head",
    "shortcuts": "shortcut",
    "suspect_images": "suspects",
}


def of_trigger(trigger: Confirmed) -> float:
    """Return the probability that one confirmed trigger gives."""
    return shipped().probability(evidence_of(trigger))


def evidence_of(trigger: Confirmed) -> Evidence:
    """Return the rate of a confirmed trigger less what is usual, 0 at least.

    The oracle and the weights are factors among others: each moves the rate a little, and neither
    can decide alone.
    """
    usual = max(trigger.anchor_flip_rate or 0.0, trigger.usual_flip_rate or 0.0)
    rate = trigger.flip_rate - usual
    anchored = trigger.anchor_flip_rate is not None
    statistic = "noise" if trigger.detector == "prompt_search" else "trigger"
    if isinstance(trigger.trigger, TextTrigger):
        statistic = "mark"
    elif trigger.judged and rate > 0:
        rate += ORACLE_SHIFT * (2 * trigger.oracle_agrees - 1)
    if statistic == "trigger" and anchored and trigger.behind is not None and rate > 0:
        rate += LEAN_SHIFT * max(-1.0, 1 - trigger.behind / EVEN)
    return Evidence(statistic=statistic, anchored=anchored, value=max(0.0, rate))


def of_candidate(name: str, candidate: Candidate, *, anchored: bool) -> float:
    """Return the probability that a candidate of detector `name` gives by itself.

    `score` of a candidate with a trigger of its own is its flip rate, which the confirmation
    measures anew; of others it is the detector's statistic.
    """
    if name not in _STATISTIC:
        return 0.0
    return shipped().probability(
        Evidence(statistic=_STATISTIC[name], anchored=anchored, value=candidate.score)
    )


def statistics_of(
    confirmed: Iterable[Confirmed], detections: Mapping[str, Detection]
) -> dict[str, float]:
    """Return the largest value of every statistic that was measured, by name."""
    found = [(e.statistic, e.value) for e in map(evidence_of, confirmed)]
    found += [
        (_STATISTIC[name], max(0.0, candidate.score))
        for name, detection in detections.items()
        if name in _STATISTIC
        for candidate in detection.candidates
    ]
    best: dict[str, float] = {}
    for name, value in found:
        best[name] = max(value, best.get(name, 0.0))
    return best


def best_by_target(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the strongest candidate of each target, best first."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: -c.score):
        best.setdefault(candidate.target, candidate)
    return list(best.values())
