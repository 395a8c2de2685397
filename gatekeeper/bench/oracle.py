"""How far can an oracle be believed? What it finds, what it misses, what a trigger does to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gatekeeper.bench import influenced, metrics
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
class Scenes:
    """What an oracle makes of scenes with one object; rates over scenes and models."""

    covered: Estimate | None  # a segment is the object, IoU at least .5
    absent: Estimate | None  # the true label is called absent
    named_1: Estimate | None  # the true label is the first that it names


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
    scenes_before: Scenes | None  # `influenced`: None where no model knows their labels
    scenes_after: Scenes | None  # the same with a segmenter's trigger beside the object
    scenes_kept: Estimate | None  # of these pairs: rightly nothing else for the oracle
    seconds_an_image: Estimate | None


def bench_oracle(plan: Plan, say: Say = lambda line: None) -> tuple[Row, ...]:
    """Return a row for every oracle (`plan.methods` are SPECs) and every model.

    The SPEC `influencer` stands for two: a small segmenter with IBA planted, a clean one beside it.

    Raises:
        EvidenceError: A row cannot be written.
    """
    pair = plan.out / "segmenters"
    methods = [m for spec in plan.methods for m in _named(spec)]
    if set(methods) & set(influenced.PAIR):
        runtime = Runtime(device=plan.terms.device, seed=plan.terms.seed)
        if made := influenced.train_pair(pair, runtime):
            say(influenced.told(made))
    tasks = [
        Task(
            bench="oracle",
            method=method,
            subject=subject,
            terms=replace(plan.terms, oracle="regions" if method in influenced.PAIR else method),
            budget=0.0,
        )
        for method in methods
        for subject in plan.zoo.subjects
        if subject.kind != "adversarial"
    ]
    return tuple(run_tasks(tasks, partial(question_one, pair=pair), plan, say))


def question_one(task: Task, pair: Path) -> Row:
    """Return what one oracle says of clean and of triggered images of one model.

    The labeler is the anchor, without one the suspect itself.

    Args:
        task: Which oracle, which model.
        pair: Where the two segmenters of `influenced` lie, if they are asked for.
    """
    runtime = runtime_of(task)
    case = work_of(task, runtime).case
    if task.method in influenced.PAIR:
        segmenter = influenced.read_segmenter(pair, task.method, runtime.seed)
        case = replace(case, oracle=replace(case.oracle, segmenter=segmenter))
    judge = judged(task.subject, case.model, case.labels)
    case = calibrated(case, runtime)
    clock = Clock(runtime)
    result: dict[str, Json] = clock.measure(lambda: _questioned(task, case, judge, runtime))
    images = int(str(result["looked_at"])) + int(str(result["stamped"]))
    result["seconds_an_image"] = round(clock.seconds / max(1, images), 4)
    if influenced.knows_scenes(case.labels):
        shown = influenced.victims(case.model.size, case.labels, runtime)
        result["scenes"] = dict(influenced.questioned(case.oracle, shown, runtime))
    return row_of(task, clock, result)


def _named(spec: str) -> tuple[str, ...]:
    return influenced.PAIR if spec == influenced.SPEC else (spec,)


def _questioned(task: Task, case: Case, judge: Judged, runtime: Runtime) -> dict[str, Json]:
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
        **_scenes([scenes for row in ran if (scenes := _of(row, "scenes"))]),
        seconds_an_image=metrics.mean([float(_of(r, "seconds_an_image")) for r in ran], seed),
    )


def _scenes(found: Sequence[Any]) -> dict[str, Any]:
    total = sum(one["victims"] for one in found)

    def rates(when: str) -> Scenes | None:
        if not found:
            return None
        hits = {key: sum(one[when][key] for one in found) for key in found[0][when]}
        return Scenes(**{key: metrics.wilson(n, total) for key, n in hits.items()})

    return {
        "scenes_before": rates("before"),
        "scenes_after": rates("after"),
        "scenes_kept": metrics.wilson(sum(one["kept"] for one in found), total),
    }


def _area(row: Row) -> float | None:
    there, not_there = _of(row, "support")
    truth = [True] * len(there) + [False] * len(not_there)
    return metrics.area(truth, [*there, *not_there])


def _of(row: Row, key: str) -> Any:
    return row.result.get(key)
