"""Which models does a detector call backdoored, and rightly? One row a method and model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gatekeeper.bench.baselines import catalogue
from gatekeeper.bench.baselines.base import Doubts, ModelDetector, Opinion, SampleDetector, Work
from gatekeeper.bench.child import Failed, carry_out
from gatekeeper.bench.metrics import Box, cosine, iou
from gatekeeper.bench.rows import Row, Store
from gatekeeper.bench.subjects import Subject, Zoo
from gatekeeper.bench.task import Clock, Task, Terms, row_of, runtime_of, work_of
from gatekeeper.bench.truth import (
    Suspects,
    fixed_box,
    has_image_trigger,
    suspects,
    target_embeddings,
    triggers,
)
from gatekeeper.runtime import Runtime
from gatekeeper.types import Json

Say = Callable[[str], None]
OURS = "gatekeeper"
FALLBACK = 6000.0  # image passes, where ours gave no answer
KEPT = 20  # labels of a ranking
PRELOAD = (  # by the server that every process is a fork of
    "gatekeeper.bench.detect",
    "gatekeeper.bench.baselines.ours",
    "open_clip",
    "great_expectations",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run, and where the rows go."""

    zoo: Zoo
    methods: tuple[str, ...]
    terms: Terms
    jobs: int
    out: Path


def detect(plan: Plan, say: Say = lambda line: None) -> tuple[Row, ...]:
    """Return a row for every method and model; what lies in `out` already is not made again.

    The others' budget is the most that ours made of any model: its own passes of the same model
    would tell them whether it found something.

    Raises:
        EvidenceError: A row cannot be written.
    """

    def takes(method: str, subject: Subject) -> bool:
        return method.partition(":")[0] not in catalogue.SAMPLES or has_image_trigger(subject)

    return ours_first(plan, "detect", judge_one, takes, say)


def ours_first(
    plan: Plan,
    bench: str,
    work: Callable[[Task], Row],
    takes: Callable[[str, Subject], bool],
    say: Say,
) -> tuple[Row, ...]:
    """Return a row for every method and model that `takes` lets through, ours before the others.

    The most passes that ours made of any model are what the others may make of each, unless the
    terms name a budget.
    """
    rows: list[Row] = []
    budget = plan.terms.budget or FALLBACK
    first = [m for m in plan.methods if m == OURS]
    for methods in (first, [m for m in plan.methods if m != OURS]):
        tasks = [
            Task(
                bench=bench,
                method=method,
                subject=subject,
                terms=plan.terms,
                budget=budget if method != OURS else 0.0,
                kept=plan.out / "scans" if bench == "rectify" else None,
            )
            for method in methods
            for subject in plan.zoo.subjects
            if takes(method, subject)
        ]
        found = run_tasks(tasks, work, plan, say)
        most = max((row.image_passes for row in found if not row.error), default=0.0)
        budget = plan.terms.budget or most or budget
        rows += found
    return tuple(rows)


def run_tasks(tasks: list[Task], work: Callable[[Task], Row], plan: Plan, say: Say) -> list[Row]:
    """Return a row a task, in the tasks' order; each is written as it comes."""
    store = Store(plan.out / "rows")
    done = {}
    for place, task in enumerate(tasks):
        if row := store.get(task.method, task.subject.name, task.key):
            done[place] = row
    places = {id(task): place for place, task in enumerate(tasks)}
    due = [task for place, task in enumerate(tasks) if place not in done]
    if done:
        say(f"{len(done)} of {len(tasks)} results were there already")
    jobs = 0 if plan.terms.in_process else plan.jobs
    for task, answer in carry_out(work, due, jobs, PRELOAD):
        row = row_of(task, None, {}, error=answer.why) if isinstance(answer, Failed) else answer
        store.put(row)
        done[places[id(task)]] = row
        told = row.error or _told(row)
        say(f"[{len(done)}/{len(tasks)}] {row.method} {row.model} ({row.kind}): {told}")
    return [done[place] for place in range(len(tasks))]


def judge_one(task: Task) -> Row:
    """Return what one method says of one model, held against the truth."""
    runtime = runtime_of(task)
    work = work_of(task, runtime)
    method: Any = catalogue.build(task.method, catalogue.MODELS, catalogue.SAMPLES)
    clock = Clock(runtime)
    work.head(runtime)  # the labels' embeddings cost every method the same: not counted
    if isinstance(method, ModelDetector):
        opinion: Opinion = clock.measure(lambda: method.judge(work, runtime))
        return row_of(task, clock, _of_model(task, work, opinion, runtime))
    hidden = suspects(task.subject, work.case, runtime)
    work = replace(work, case=replace(work.case, suspects=hidden.images))
    detector: SampleDetector = method
    doubts: Doubts = clock.measure(lambda: detector.doubt(work, runtime))
    return row_of(task, clock, _of_images(doubts, hidden))


def _of_model(task: Task, work: Work, said: Opinion, runtime: Runtime) -> dict[str, Json]:
    truth = target_embeddings(task.subject, work.case, runtime)
    places = [said.ranking.index(label) + 1 for label in truth if label in said.ranking]
    return {
        "score": said.score,
        "probability": said.probability,
        "flagged": said.flagged,
        "ranking": list(said.ranking[:KEPT]),
        "targets": list(truth),
        "rank": min(places) if places else None,
        "cosine": _cosine(said.embedding, truth),
        "embedding": _numbers(said.embedding),
        "box": list(said.box) if said.box else None,
        "iou": _overlap(task, work, said.box),
        "full_passes": said.full_passes,
        "budget": task.budget,
        "note": said.note,
        "evidence": dict(said.evidence),
        "anchored": work.case.anchor is not None,
    }


def _of_images(doubts: Doubts, hidden: Suspects) -> dict[str, Json]:
    overlaps: list[Json] = [
        iou(found, there)
        for found, there in zip(doubts.boxes, hidden.boxes, strict=False)
        if found is not None and there is not None
    ]
    flagged = doubts.flagged
    return {
        "scores": [round(float(x), 6) for x in doubts.scores],
        "triggered": list(hidden.triggered),
        "image_flags": None if flagged is None else [bool(x) for x in flagged],
        "overlaps": overlaps,
        "local": sum(box is not None for box in hidden.boxes),
    }


def _cosine(found: Tensor | None, truth: Mapping[str, Tensor]) -> float | None:
    """Return the cosine with the nearest true target; None: nothing recovered, or none there."""
    if found is None or not truth:
        return None
    return max(cosine(found.tolist(), true.tolist()) for true in truth.values())


def _numbers(vector: Tensor | None) -> list[Json] | None:
    return None if vector is None else [round(float(x), 6) for x in vector]


def _overlap(task: Task, work: Work, found: Box | None) -> float | None:
    """Return the IoU of the recovered and the true place; None where there is no fixed place."""
    if task.subject.kind != "planted":
        return None
    places = [fixed_box(t, work.case.model.size) for _, t in triggers(task.subject)]
    known = [place for place in places if place is not None]
    if not known:
        return None
    return max(iou(found, place) for place in known) if found else 0.0


def _told(row: Row) -> str:
    score = row.result.get("score")
    shown = f"score {score:.3f}, " if isinstance(score, float) else ""
    return f"{shown}{row.image_passes:.0f} passes, {row.seconds:.1f} s"
