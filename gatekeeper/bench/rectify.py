"""Which repair takes a backdoor away, at what price, and does it stay away?"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gatekeeper.bench import metrics
from gatekeeper.bench.baselines import catalogue
from gatekeeper.bench.baselines.base import Mended, Repairer
from gatekeeper.bench.detect import OURS, Plan, Say, ours_first
from gatekeeper.bench.metrics import Estimate
from gatekeeper.bench.repair import Worth, bed, rebound, twin_worth, worth
from gatekeeper.bench.rows import Row
from gatekeeper.bench.task import Clock, Task, row_of, runtime_of, work_of
from gatekeeper.errors import IntakeError
from gatekeeper.rectify.prompts import with_prompts
from gatekeeper.types import Json

FIGURES = (
    "clean_accuracy", "attack_success", "robust_accuracy", "recall_1", "recall_5",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairTally:
    """A repair over a group of planted models, means with intervals over models."""

    method: str
    group: str  # all | attack | architecture | clean
    name: str
    models: int
    failed: int
    unchanged: int  # it changed no weight
    refused: int  # the method itself says that its result is not good enough; counted all the same
    before: dict[str, Estimate | None]
    after: dict[str, Estimate | None]
    der: Estimate | None
    a_post: Estimate | None
    accuracy_change: Estimate | None  # in pairs, over models
    robust_gap: Estimate | None  # robust accuracy less the clean twin's, over models with one
    worst: dict[str, float | None]  # of ASR after, A_post, accuracy's change and the gap


def bench_rectify(plan: Plan, say: Say = lambda line: None) -> tuple[Row, ...]:
    """Return a row for every repair and planted model, and for clean ones if asked for.

    The passes of ours that set the others' budget are those of its scan and repair together.

    Raises:
        IntakeError: The zoo holds no planted model.
        EvidenceError: A row cannot be written.
    """
    if not any(subject.kind == "planted" for subject in plan.zoo.subjects):
        raise IntakeError("no planted model to repair", hint="see --only, or build a zoo")
    return ours_first(
        plan, "rectify", repair_one, lambda _, subject: subject.kind != "adversarial", say
    )


def repair_one(task: Task) -> Row:
    """Return what one repair makes of one model, measured with the true trigger."""
    runtime = runtime_of(task)
    work = work_of(task, runtime)
    method: Repairer = catalogue.build(task.method, catalogue.REPAIRS)
    on = bed(task.subject, work, runtime)
    before = worth(work.case.model, on, runtime)
    clock = Clock(runtime)
    mended: Mended = clock.measure(lambda: method.mend(work, runtime))
    model = work.case.model.with_state(mended.state) if mended.state else work.case.model
    model = with_prompts(model, mended.prompts) if mended.prompts else model
    changed = len(mended.state) + len(mended.prompts)
    after = worth(model, on, runtime) if changed else before
    twin = twin_worth(task.subject, on, runtime)
    planted = task.subject.kind == "planted"
    steps = task.terms.post_steps if planted else 0
    back = rebound(model, task.subject, on, steps, runtime) if steps else {}
    gap = metrics.mean(_gaps(before.clean_hits, after.clean_hits), task.terms.seed)
    result: dict[str, Json] = {
        "before": _figures(before),
        "after": _figures(after),
        "clean_hits": [list(before.clean_hits), list(after.clean_hits)],
        "attack_hits": [list(before.attack_hits), list(after.attack_hits)],
        "accuracy_change": _plain(gap),
        "der": _der(before, after),
        "a_post": max([*back.values(), after.attack_success or 0.0]) if back else None,
        "rebound": {str(step): rate for step, rate in back.items()},
        "twin": None if twin is None else _figures(twin),
        "robust_gap": _robust_gap(after, twin),
        "changed": changed,
        "offered": mended.offered,
        "images": mended.images,
        "steps": mended.steps,
        "budget": task.budget,
        "note": mended.note,
        **mended.told,
    }
    return row_of(task, clock, result)


def repair_tallies(rows: Sequence[Row], seed: int = 0) -> tuple[RepairTally, ...]:
    """Return each repair over all planted models, each attack and architecture, and clean ones."""
    found = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        planted = [row for row in mine if row.kind == "planted"]
        found.append(_tally(method, "all", "all", planted, seed))
        groups: tuple[tuple[str, Callable[[Row], str]], ...] = (
            ("attack", lambda row: row.attack),
            ("architecture", lambda row: row.architecture),
        )
        for group, key in groups:
            for name in dict.fromkeys(key(row) for row in planted):
                some = [row for row in planted if key(row) == name]
                found.append(_tally(method, group, name, some, seed))
        if clean := [row for row in mine if row.kind == "clean"]:
            found.append(_tally(method, "clean", "clean models", clean, seed))
    return tuple(found)


def repair_compared(rows: Sequence[Row], seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """Return ours minus each other method, in pairs over the models that both repaired."""
    good = [row for row in rows if row.kind == "planted" and not row.error]
    ours = {row.model: row for row in good if row.method == OURS}
    found: dict[str, dict[str, Estimate]] = {}
    for method in dict.fromkeys(row.method for row in good if row.method != OURS):
        both = [row for row in good if row.method == method and row.model in ours]
        gaps: dict[str, Estimate] = {}
        for figure in (*FIGURES, "a_post", "der"):
            pairs = [(_figure(ours[row.model], figure), _figure(row, figure)) for row in both]
            known = [a - b for a, b in pairs if a is not None and b is not None]
            if (gap := metrics.mean(known, seed)) is not None:
                gaps[figure] = gap
        found[method] = gaps
    return found


def _tally(method: str, group: str, name: str, rows: Sequence[Row], seed: int) -> RepairTally:
    ran = [row for row in rows if not row.error]

    def over(values: list[float | None]) -> Estimate | None:
        return metrics.mean(_known(values), seed)

    change = [_get(row, "accuracy_change", "value") for row in ran]
    gap = [_figure(row, "robust_gap") for row in ran]
    left, back = ([_figure(row, key) for row in ran] for key in ("attack_success", "a_post"))
    return RepairTally(
        method=method,
        group=group,
        name=name,
        models=len(rows),
        failed=len(rows) - len(ran),
        unchanged=sum(row.result["changed"] == 0 for row in ran),
        refused=sum(not row.result["offered"] for row in ran),
        before={key: over([_get(row, "before", key) for row in ran]) for key in FIGURES},
        after={key: over([_get(row, "after", key) for row in ran]) for key in FIGURES},
        der=over([_figure(row, "der") for row in ran]),
        a_post=over([_figure(row, "a_post") for row in ran]),
        accuracy_change=over(change),
        robust_gap=over(gap),
        worst={
            "attack_success": max(_known(left), default=None),
            "a_post": max(_known(back), default=None),
            "accuracy_change": min(_known(change), default=None),
            "robust_gap": min(_known(gap), default=None),
        },
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _figure(row: Row, name: str) -> float | None:
    if name in FIGURES:
        return _get(row, "after", name)
    value: Any = row.result.get(name)
    return value if value is None else float(value)


def _get(row: Row, key: str, name: str) -> float | None:
    inside: Any = row.result.get(key) or {}
    value = inside.get(name)
    return None if value is None else float(value)


def _gaps(before: Sequence[bool], after: Sequence[bool]) -> list[float]:
    return [float(b) - float(a) for a, b in zip(before, after, strict=True)]


def _figures(of: Worth) -> dict[str, Json]:
    return {key: getattr(of, key) for key in FIGURES}


def _robust_gap(after: Worth, twin: Worth | None) -> float | None:
    if twin is None or after.robust_accuracy is None or twin.robust_accuracy is None:
        return None
    return after.robust_accuracy - twin.robust_accuracy


def _der(before: Worth, after: Worth) -> float | None:
    if before.attack_success is None or after.attack_success is None:
        return None
    return metrics.der(
        (before.clean_accuracy, after.clean_accuracy),
        (before.attack_success, after.attack_success),
    )


def _plain(estimate: Estimate | None) -> Json:
    return None if estimate is None else dict(asdict(estimate))
