"""One method on one model: what is to be done, and how its cost is measured."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gatekeeper import __version__
from gatekeeper.bench.baselines import catalogue
from gatekeeper.bench.baselines.base import Work
from gatekeeper.bench.child import peak_rss_mb
from gatekeeper.bench.rows import Row, key_of
from gatekeeper.bench.subjects import Subject
from gatekeeper.errors import DigestMismatchError, UnsafeFormatError
from gatekeeper.intake.digest import tree_digest
from gatekeeper.pipeline.prepare import ScanRequest, prepare
from gatekeeper.policy.schema import load_policy
from gatekeeper.runtime import Meter, Runtime
from gatekeeper.types import Json

VERSIONS = {"detect": 2, "rectify": 3, "oracle": 3}  # raise one when its tasks are to be done anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds for all tasks of a run."""

    anchor: bool = True  # hand the anchor to the methods
    seed: int = 0
    device: str = "cpu"
    oracle: str = "regions"
    budget: float | None = None  # image passes a method; None: those that ours made
    in_process: bool = False
    post_steps: int = 300  # clean fine-tuning steps after a repair


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One method on one model."""

    bench: str
    method: str  # `NAME[:FIELD=VALUE+…]`
    subject: Subject
    terms: Terms
    budget: float
    kept: Path | None = None  # folder for what a later run can take up, whatever its key

    @property
    def key(self) -> str:
        """Digest of all that the result follows from."""
        groups = (catalogue.MODELS, catalogue.SAMPLES, catalogue.REPAIRS)
        known = self.method.partition(":")[0]
        group = next((g for g in groups if known in g), None)
        if self.bench == "rectify":
            group = catalogue.REPAIRS
        built = catalogue.parameters(catalogue.build(self.method, group)) if group else {}
        subject, terms = self.subject, self.terms
        parts: dict[str, Json] = {
            "version": [VERSIONS[self.bench], __version__],
            "bench": self.bench,
            "method": [self.method, key_of(_plain(built))],
            "model": subject.digest,
            # Prompts of their own beside the weights: other bytes are another subject.
            "prompts": tree_digest(subject.prompts)[0] if subject.prompts else None,
            "goals": [[g.label, str(g.trigger)] for g in subject.goals],
            "anchor": subject.anchor_digest if terms.anchor else None,
            "images": [subject.images.digest, str(subject.images.probes)],
            "terms": [terms.seed, terms.device, terms.oracle],
            "post_steps": terms.post_steps if self.bench == "rectify" else None,
            "budget": self.budget,
        }
        if self.bench == "rectify":
            parts["twin"] = tree_digest(subject.twin)[0] if subject.twin else None
        return key_of(parts)

    @property
    def scan(self) -> Path | None:
        """Where ours keeps its scan: the same for every run over the same bytes and terms."""
        if self.kept is None:
            return None
        subject, terms = self.subject, self.terms
        anchor = subject.anchor_digest if terms.anchor else None
        images: Json = [subject.images.digest, str(subject.images.probes)]
        rest: Json = [__version__, terms.seed, terms.device, terms.oracle]
        digest = key_of([subject.digest, anchor, images, rest]).removeprefix("sha256:")
        return self.kept / f"{subject.name}-{digest[:16]}"


def runtime_of(task: Task) -> Runtime:
    """Return a runtime with a meter of its own; no limit, methods keep to their budget."""
    return Runtime(device=task.terms.device, seed=task.terms.seed, meter=Meter())


def work_of(task: Task, runtime: Runtime) -> Work:
    """Open the model and everything that is handed to a method.

    Raises:
        DigestMismatchError: The bytes are not those of the manifest.
        UnsafeFormatError: The model cannot be read without running code.
    """
    subject, terms = task.subject, task.terms
    request = ScanRequest(
        model=subject.path,
        uri=subject.name,
        policy=load_policy(None),
        anchor=subject.anchor if terms.anchor else None,
        probes=subject.images.probes,
        labels=subject.images.labels,
        oracle=terms.oracle,
        prompts=subject.prompts,
    )
    ready = prepare(request, runtime)
    if ready.opened.ref.digest != subject.digest:
        raise DigestMismatchError(
            f"{subject.name} is {ready.opened.ref.digest}, its zoo says {subject.digest}",
            hint="build the zoo again",
        )
    if ready.case is None:
        raise UnsafeFormatError(
            f"{subject.name} cannot be read without running code", hint="save it as safetensors"
        )
    return Work(
        request=request,
        ready=ready,
        case=ready.case,
        budget=task.budget,
        include=tuple(dict.fromkeys(goal.label for goal in subject.goals)),
        scan=task.scan,
    )


@dataclass(slots=True)
class Clock:
    """Measures one method: seconds and passes of nothing else."""

    runtime: Runtime
    seconds: float = 0.0
    image_passes: float = 0.0
    text_passes: float = 0.0

    def measure(self, method: Callable[[], Any]) -> Any:
        """Return what `method` returns."""
        meter = self.runtime.meter
        before, started = (meter.image_passes, meter.text_passes), time.perf_counter()
        result = method()
        self.seconds = time.perf_counter() - started
        self.image_passes = meter.image_passes - before[0]
        self.text_passes = meter.text_passes - before[1]
        return result


def row_of(task: Task, clock: Clock | None, result: Mapping[str, Json], error: str = "") -> Row:
    """Return the task's row."""
    subject = task.subject
    row = Row(
        bench=task.bench,
        method=task.method,
        model=subject.name,
        key=task.key,
        kind=subject.kind,
        attack=subject.attack,
        family=subject.family,
        architecture=subject.architecture,
        base=subject.base,
        digest=subject.digest,
        result=dict(result),
        error=error,
        peak_rss_mb=peak_rss_mb(),
        own_process=not task.terms.in_process,
    )
    if clock is None:
        return row
    return replace(
        row,
        seconds=round(clock.seconds, 3),
        image_passes=round(clock.image_passes, 1),
        text_passes=round(clock.text_passes, 1),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
