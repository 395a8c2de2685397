"""Which methods can help here, and which is the first whose result is good enough?"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from gatekeeper.case import Case
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Prescription, Rectified, Rectifier
from gatekeeper.rectify.limits import Limits, check, check_proof
from gatekeeper.rectify.proof import prove
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import TextTrigger

Load = Callable[[str], type[Rectifier]]

BELOW = "ablate"  # leaves less than the anchor has, where a trigger leads the anchor as well


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """One part of the model, what ails it, and the methods for it, cheapest first."""

    methods: tuple[str, ...]
    prescription: Prescription


def stages(case: Case, prescription: Prescription) -> tuple[Stage, ...]:
    """Return what is to be repaired, in order: prompts' marks first, then what images show.

    Published methods that learn from clean images alone (fine-tuning, CleanCLIP, PAR, InverTune)
    are never among them: with a few hundred images they leave backdoors alive (docs/bench.md).
    """
    marks = tuple(a for a in prescription.ailments if isinstance(a.trigger, TextTrigger))
    others = tuple(a for a in prescription.ailments if not isinstance(a.trigger, TextTrigger))
    found = []
    if marks:
        found.append(
            Stage(methods=("text_tower",), prescription=replace(prescription, ailments=marks))
        )
    if others or not marks:
        methods = ["compact", "ablate", "negate"]
        if case.anchor is not None:  # cheaper than compact, but it never attacks its own result
            methods.insert(1, "interpolate")
        if prescription.victims and case.suspects is not None:
            methods.insert(methods.index("compact") + 1, "unlearn")
        if case.model.conditional:
            methods.insert(0, "prompts")
        found.append(Stage(methods=tuple(methods), prescription=prescription))
    return tuple(found)


def automatic(
    case: Case, prescription: Prescription, load: Load, runtime: Runtime, limits: Limits
) -> Rectified:
    """Return the first proven result of each stage within `limits`; its notes tell what was tried.

    Raises:
        RectifyError: None does; `rejected` is the best of them, where anything was made.
    """
    notes: tuple[str, ...] = ()
    images, begun, steps, spent = 0, dict(prescription.begun), 0, 0.0
    for stage in stages(case, prescription):
        given = replace(stage.prescription, begun=begun)
        made = _first(case, given, stage.methods, load, runtime, limits)
        notes, steps = notes + made.notes, steps + made.steps
        spent += made.proof_seconds
        images, begun = max(images, made.images_used), dict(made.state)
    return replace(made, images_used=images, notes=notes, steps=steps, proof_seconds=spent)


def _first(
    case: Case,
    prescription: Prescription,
    methods: tuple[str, ...],
    load: Load,
    runtime: Runtime,
    limits: Limits,
) -> Rectified:
    """Return the first proven result; one as easily led as the anchor only for want of better."""
    missed: list[RectifyError] = []
    notes: list[str] = []
    spent = 0.0
    borne: Rectified | None = None
    for name in methods:
        if borne is not None and name != BELOW:
            continue
        try:
            made = load(name)().rectify(case, prescription, runtime)
            check(made, made.held_out, limits)
            clock = time.process_time()
            proved = prove(case, prescription, made, runtime, limits)
            spent += time.process_time() - clock
            made = replace(made, proved=proved, proof_seconds=spent)
            check_proof(proved.record, made)
        except RectifyError as error:
            missed.append(error)
            notes.append(f"{name} missed: {error.message}")
            continue
        if not proved.borne or BELOW not in methods:
            return replace(made, notes=(*notes, *made.notes))
        if borne is None:
            borne = made
            notes.append(f"{name} is proven but for patterns that lead the anchor as well")
    if borne is not None:
        return replace(borne, notes=(*notes, *borne.notes), proof_seconds=spent)
    best = min(missed, key=_badness)
    if isinstance(best.rejected, Rectified):
        told = (*notes, *best.rejected.notes)
        best.rejected = replace(best.rejected, notes=told, proof_seconds=spent)
    raise best


def _badness(error: RectifyError) -> tuple[bool, float, float]:
    """Return what orders misses: without a result last, then attack success, then answers lost."""
    made = error.rejected
    if not isinstance(made, Rectified):
        return True, 1.0, 1.0
    return False, made.after.attack_success or 0.0, 1 - (made.after.agreement or 0.0)
