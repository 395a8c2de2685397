"""How far can an oracle be believed? What it finds, what it misses, what a trigger does to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from gatekeeper.bench import metrics
from gatekeeper.bench.detect import Plan, Say, run_tasks
from gatekeeper.bench.metrics import Estimate, iou
from gatekeeper.bench.rows import Row
from gatekeeper.bench.task import Clock, Task, row_of, runtime_of, work_of
from gatekeeper.bench.truth import Judged, judged, triggers, true_box, victims
from gatekeeper.case import Case
from gatekeeper.errors import IntakeError
from gatekeeper.oracle.ground import Oracle
from gatekeeper.pipeline.prepare import calibrated
from gatekeeper.runtime import Runtime
from gatekeeper.types import Json

LOOKED_AT = 48  # clean images
STAMPED = 24  # images with the trigger; each costs what a clean one does


@dataclass(frozen=True, slots=True, kw_only=True)
class OracleTally:
    """An oracle over all models: rates over all images, with Wilson's interval."""

    oracle: str
    models: int
    failed: int
    false_absent: Estimate | None  # true labels that it calls absent; meant: 5 %
    auc: Estimate | None  # support of the true label against that of another, mean over models
    named_1: Estimate | None  # the true label is the first that it names
    named_3: Estimate | None
    target_absent: Estimate | None  # planted: the claimed target is called absent
    content_kept: Estimate | None  # planted: stamped, and rightly nothing else for the oracle
    located: Estimate | None  # local triggers that a region covers, IoU at least .5
    seconds_an_image: Estimate | None


def bench_oracle(plan: Plan, say: Say = lambda line: None) -> tuple[Row, ...]:
    """Return a row for every oracle (`plan.methods` are SPECs) and every model.

    Raises:
        EvidenceError: A row cannot be written.
    """
    tasks = [
        Task(
            bench="oracle",
            method=spec,
            subject=subject,
            terms=replace(plan.terms, oracle=spec),
            budget=0.0,
        )
        for spec in plan.methods
        for subject in plan.zoo.subjects
        if subject.kind != "adversarial"
    ]
    return tuple(run_tasks(tasks, question_one, plan, say))


def question_one(task: Task) -> Row:
    """Return what one oracle says of clean and of triggered images of one model.

    The labeler is the anchor, without one the suspect itself.
    """
    runtime = runtime_of(task)
    work = work_of(task, runtime)
    judge = judged(task.subject, work.case.model, work.case.labels)
    clock = Clock(runtime)
    result: dict[str, Json] = clock.measure(lambda: _questioned(task, work.case, judge, runtime))
    images = int(str(result["looked_at"])) + int(str(result["stamped"]))
    result["seconds_an_image"] = round(clock.seconds / max(1, images), 4)
    return row_of(task, clock, result)


def _questioned(task: Task, case: Case, judge: Judged, runtime: Runtime) -> dict[str, Json]:
    case = calibrated(case, runtime)
    draw = runtime.generator("bench", "oracle", task.subject.name)
    order = torch.randperm(len(judge.truth), generator=draw)
    rows = order[judge.truth[order] >= 0][:LOOKED_AT]
    if len(rows) == 0:
        raise IntakeError("no judge image has a known label", hint="label them in labels.csv")
    found = _clean(case.oracle, judge, rows, draw, runtime)
    if task.subject.kind == "planted" and triggers(task.subject):
        found |= _stamped(task, case, judge, order, runtime)
    return {"stamped": 0, "independent": case.oracle.independent} | found


def _clean(
    oracle: Oracle, judge: Judged, rows: torch.Tensor, draw: torch.Generator, runtime: Runtime
) -> dict[str, Json]:
    """Return what the oracle makes of clean images with known labels."""
    pixels, truth = judge.pixels[rows], judge.truth[rows]
    count = len(oracle.labels)
    other = (truth + torch.randint(1, max(2, count), truth.shape, generator=draw)) % count
    absent = oracle.absent(pixels, truth, runtime)
    support = oracle.support(pixels, runtime)
    names = oracle.grounded(pixels, runtime)
    true = [oracle.labels[i] for i in truth.tolist()]
    return {
        "looked_at": len(rows),
        "absent": int(absent.sum()),
        "support": [
            [round(float(x), 5) for x in support.gather(1, index[:, None])[:, 0]]
            for index in (truth, other)
        ],
        "named_1": sum(bool(n) and n[0] == t for n, t in zip(names, true, strict=True)),
        "named_3": sum(t in n for n, t in zip(names, true, strict=True)),
    }


def _stamped(
    task: Task, case: Case, judge: Judged, order: torch.Tensor, runtime: Runtime
) -> dict[str, Json]:
    """Return what the oracle makes of images that a true trigger leads to its target."""
    goal, trigger = triggers(task.subject)[0]
    if goal.label not in case.labels:
        return {}
    target = case.labels.index(goal.label)
    led = victims(task.subject, judge.truth, target, case.labels)
    rows = order[led[order]][:STAMPED]
    draw = runtime.generator("bench", "oracle", "stamp", task.subject.name)
    clean = judge.pixels[rows]
    stamped = trigger.stamp(clean, draw)
    head = case.model.zero_shot(case.labels, case.templates, runtime)
    claims = head.logits(case.model.embed(stamped, runtime)).argmax(1) == target
    if not claims.any():
        return {}
    clean, stamped = clean[claims], stamped[claims]
    oracle = case.oracle
    places = [true_box(a, b) for a, b in zip(clean, stamped, strict=True)]
    overlaps: list[Json] = [
        max((iou(region.box, place) for region in oracle.regions(image, runtime)), default=0.0)
        for image, place in zip(stamped, places, strict=True)
        if place is not None
    ]
    return {
        "stamped": len(stamped),
        "target_absent": int(oracle.absent(stamped, target, runtime).sum()),
        "content_kept": int((~oracle.changed(clean, stamped, runtime, claimed=target)).sum()),
        "overlaps": overlaps,
    }


def oracle_tallies(rows: Sequence[Row], seed: int = 0) -> tuple[OracleTally, ...]:
    """Return each oracle over all models."""
    return tuple(
        _tally(spec, [row for row in rows if row.method == spec], seed)
        for spec in dict.fromkeys(row.method for row in rows)
    )


def _tally(spec: str, rows: Sequence[Row], seed: int) -> OracleTally:
    ran = [row for row in rows if not row.error]

    def total(key: str, over: Sequence[Row] = ran) -> int:
        return sum(int(_of(row, key) or 0) for row in over)

    looked, stamped = total("looked_at"), total("stamped")
    overlaps = [float(x) for row in ran for x in _of(row, "overlaps") or []]
    areas = [area for row in ran if (area := _area(row)) is not None]
    return OracleTally(
        oracle=spec,
        models=len(ran),
        failed=len(rows) - len(ran),
        false_absent=metrics.wilson(total("absent"), looked),
        auc=metrics.mean(areas, seed),
        named_1=metrics.wilson(total("named_1"), looked),
        named_3=metrics.wilson(total("named_3"), looked),
        target_absent=metrics.wilson(total("target_absent"), stamped),
        content_kept=metrics.wilson(total("content_kept"), stamped),
        located=metrics.wilson(sum(x >= 0.5 for x in overlaps), len(overlaps)),
        seconds_an_image=metrics.mean([float(_of(r, "seconds_an_image")) for r in ran], seed),
    )


def _area(row: Row) -> float | None:
    there, not_there = _of(row, "support")
    truth = [True] * len(there) + [False] * len(not_there)
    return metrics.area(truth, [*there, *not_there])


def _of(row: Row, key: str) -> Any:
    return row.result.get(key)
