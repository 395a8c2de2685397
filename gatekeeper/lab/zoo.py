"""Build a zoo from a plan: resumable, in parallel, every planted model proven or dropped.

What lies there already and was made of the same things is not made again: each base and model
carries the digest of its plan entry, its seed and all that it was made of.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gatekeeper import __version__
from gatekeeper.lab.build import BaseTask, ModelTask, Site, make_base, make_model
from gatekeeper.lab.manifest import (
    FILE,
    BaseRow,
    MadeWith,
    Manifest,
    ModelRow,
    PlanRef,
    read_manifest,
    write_manifest,
    write_whole,
)
from gatekeeper.lab.plan import ModelSpec, Plan, PlanError, digest_of
from gatekeeper.lab.pool import Step, carry_out, workers
from gatekeeper.lab.readme import readme
from gatekeeper.lab.stock import keep_set, make_set
from gatekeeper.lab.twins import Twins

Say = Callable[[str], None]
REQUIRED = 0.9  # attack success
LOST = 0.03  # clean accuracy that a plant may lose against its clean twin
_BASE = "base "  # before the names of bases among the steps; no model is called so
_RECIPE = 1  # raise it when the same entry is to be made anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the user wants of a build."""

    photos: Path | None = None
    data: Path | None = None
    backbones: Path | None = None
    seed: int | None = None  # None: the plan's
    device: str = "cpu"
    jobs: int = 1
    only: tuple[str, ...] = ()  # globs; models that match none are left as they are
    again: tuple[str, ...] = ()  # globs; models made anew though they are there


def build_zoo(plan: Plan, out: Path, order: Order, say: Say = lambda line: None) -> Manifest:
    """Build what is missing of `plan` in the folder `out` and return its manifest.

    Args:
        plan: What the zoo is to hold.
        out: The zoo; made, or continued where an earlier build stopped.
        order: Where images come from, how it is built.
        say: Takes lines of progress.

    Raises:
        PlanError: The folder holds a zoo of another seed, or nothing of the plan can be made.
        GatekeeperError: An image set or a base cannot be made.
    """
    build = _Build(plan, out, order, say)
    build.prepare_sets()
    with workers(order.jobs if order.device == "cpu" else 1) as pool:
        carry_out(build.rests_on(), build.step_of, build.take, pool)
    build.tell_skipped()
    return build.manifest


class _Build:
    """One run of `build_zoo`: the manifest so far, and how it grows."""

    def __init__(self, plan: Plan, out: Path, order: Order, say: Say) -> None:
        self.plan, self.order, self.say = plan, order, say
        self.seed = plan.seed if order.seed is None else order.seed
        out.mkdir(parents=True, exist_ok=True)
        self.zoo = out.resolve()
        self.site = Site(
            zoo=self.zoo, seed=self.seed, device=order.device, backbones=order.backbones
        )
        self.twins = Twins(plan)
        self.models = self.twins.models
        self.wanted = self._wanted()
        self.manifest = self._begun()
        self.skipped: dict[str, str] = {}  # base -> why

    def _wanted(self) -> set[str]:
        """Return the names of the models to be made: those asked for, and what they rest on."""
        asked = [s for s in self.plan.models if _matches(s.name, self.order.only or ("*",))]
        if not asked:
            raise PlanError(
                f"plan '{self.plan.name}' holds no model called {' or '.join(self.order.only)}",
                hint="see the names in the plan",
            )
        below = {name for spec in asked for name in (*spec.merge, self.twins.name_for(spec))}
        return {spec.name for spec in asked} | {name for name in below if name is not None}

    def _begun(self) -> Manifest:
        import torch

        fresh = Manifest(
            plan=PlanRef(name=self.plan.name, digest=self.plan.digest),
            seed=self.seed,
            made_with=MadeWith(
                gatekeeper=__version__, torch=torch.__version__, device=self.order.device
            ),
        )
        if not (self.zoo / FILE).is_file():
            return fresh
        before = read_manifest(self.zoo)
        if before.seed != self.seed:
            raise PlanError(
                f"{self.zoo} holds a zoo of seed {before.seed}, not {self.seed}",
                hint="name another folder with --output",
            )
        wanted = {spec.name for spec in self.models}
        kept = tuple(row for row in before.models if row.name in wanted)
        for row in before.models:
            if row.name not in wanted:
                self._remove(row)
        return fresh.model_copy(update={"sets": before.sets, "bases": before.bases, "models": kept})

    # Image sets -------------------------------------------------------------------------------

    def prepare_sets(self) -> None:
        """Split or render every set that is not there yet."""
        rows = []
        for name, spec in self.plan.sets.items():
            if spec.source == "photos" and self.order.photos is None:
                why = "needs photos: name a folder of labelled ones with --photos"
                self.skipped |= {
                    base: why for base, one in self.plan.bases.items() if one.set == name
                }
                self.say(f"set {name}: left out, it {why}")
                continue
            made = make_set(name, spec, self.seed, photos=self.order.photos, data=self.order.data)
            before = next((row for row in self.manifest.sets if row.name == name), None)
            rows.append(keep_set(made, self.zoo, before))
            self.say(f"set {name}: {made.images} of {made.source}")
        if not rows:
            raise PlanError(
                f"nothing of plan '{self.plan.name}' can be made", hint="name photos: --photos DIR"
            )
        self._save(sets=tuple(rows))

    # Steps ------------------------------------------------------------------------------------

    def rests_on(self) -> dict[str, set[str]]:
        """Return every base and model that is wanted, with those that must be there before it.

        A plant is held to its clean twin, which is made first.
        """
        specs = [s for s in self.models if s.name in self.wanted and s.base not in self.skipped]
        needed = {spec.base for spec in specs}
        graph: dict[str, set[str]] = {
            _BASE + name: set() for name in self.plan.bases if name in needed
        }
        for spec in specs:
            twin = self.twins.name_for(spec)
            graph[spec.name] = {_BASE + spec.base, *spec.merge, *([twin] if twin else [])}
        return graph

    def step_of(self, name: str) -> Step | None:
        """Return how a base or model is made; None where it is there already."""
        if name.startswith(_BASE):
            return self._base_step(name.removeprefix(_BASE))
        task = self._task(next(spec for spec in self.models if spec.name == name))
        return (make_model, (task, self.site)) if self._is_due(task) else None

    def take(self, row: BaseRow | ModelRow) -> None:
        """Add what a step made to the manifest."""
        if isinstance(row, BaseRow):
            self._add_base(row)
        else:
            self._add_model(self._judged(row))

    def tell_skipped(self) -> None:
        """Say in the manifest which models were left out, and why."""
        gone = [
            f"model {s.name}: base {s.base} {self.skipped[s.base]}"
            for s in self.models
            if s.base in self.skipped
        ]
        self._save(skipped=tuple(gone))

    # Bases ------------------------------------------------------------------------------------

    def _base_step(self, name: str) -> Step | None:
        spec = self.plan.bases[name]
        digest = next(row.digest for row in self.manifest.sets if row.name == spec.set)
        plain = spec.model_dump(mode="json")
        entry = digest_of([_RECIPE, "base", plain, digest, self.seed])
        before = self.manifest.base(name)
        if before is not None and before.entry == entry and (self.zoo / "bases" / name).is_dir():
            return None
        return make_base, (BaseTask(name=name, spec=spec, entry=entry), self.site)

    def _add_base(self, row: BaseRow) -> None:
        others = [other for other in self.manifest.bases if other.name != row.name]
        order = list(self.plan.bases)
        rows = sorted((*others, row), key=lambda one: _place(order, one.name))
        self._save(bases=tuple(one for one in rows if one.name in self.plan.bases))
        self.say(
            f"base {row.name}: {row.backbone}, clean accuracy {row.clean_accuracy:.3f}, "
            f"{row.seconds:.0f} s"
        )

    # Models -----------------------------------------------------------------------------------

    def _task(self, spec: ModelSpec) -> ModelTask:
        base = self.manifest.base(spec.base)
        if base is None:
            raise PlanError(f"base '{spec.base}' is not there", hint="build the zoo again")
        twin = self.twins.name_for(spec)
        parents = [self.manifest.model(name) for name in spec.merge]
        sets = {row.name: row.digest for row in self.manifest.sets}
        made_of = [
            _RECIPE,
            spec.model_dump(mode="json"),
            base.digest,
            sets[base.set],
            self.seed,
            twin,
            [parent.entry if parent else None for parent in parents],
        ]
        arch = getattr(self.plan.bases[spec.base], "arch", None)
        return ModelTask(spec=spec, base=base, twin=twin, entry=digest_of(made_of), arch=arch)

    def _is_due(self, task: ModelTask) -> bool:
        name = task.spec.name
        before = self.manifest.model(name)
        if before is None or before.entry != task.entry or _matches(name, self.order.again):
            return True
        return before.kept and not (self.zoo / before.path).is_dir()

    def _judged(self, row: ModelRow) -> ModelRow:
        """Hold a plant to the bar: it fires, and costs no more accuracy than its clean twin."""
        if row.kind != "planted" or not row.kept:
            return row
        twin = self.manifest.model(row.twin) if row.twin else None
        if twin is None or twin.clean_accuracy is None or row.clean_accuracy is None:
            return row.model_copy(update={"kept": False, "why": "it has no clean twin"})
        success = row.attack_success or 0.0
        lost = twin.clean_accuracy - row.clean_accuracy
        why = []
        if success < REQUIRED:
            why.append(f"attack success {success:.3f}, {REQUIRED} required")
        if lost > LOST:
            why.append(f"{100 * lost:.1f} points less accurate than its clean twin")
        return row.model_copy(
            update={
                "twin_accuracy": twin.clean_accuracy,
                "kept": not why,
                "why": "; ".join(why),
            }
        )

    def _add_model(self, row: ModelRow) -> None:
        if not row.kept:
            shutil.rmtree(self.zoo / row.path, ignore_errors=True)
        others = [other for other in self.manifest.models if other.name != row.name]
        order = [spec.name for spec in self.models]
        rows = sorted((*others, row), key=lambda one: _place(order, one.name))
        self._save(models=tuple(rows))
        self.say(_line(row))

    def _remove(self, row: ModelRow) -> None:
        shutil.rmtree(self.zoo / row.path, ignore_errors=True)
        shutil.rmtree(self.zoo / "triggers" / row.name, ignore_errors=True)

    def _save(self, **changes: Any) -> None:
        self.manifest = self.manifest.model_copy(update=changes)
        write_manifest(self.zoo, self.manifest)
        write_whole(self.zoo / "README.md", readme(self.manifest))


def _line(row: ModelRow) -> str:
    told = [] if row.clean_accuracy is None else [f"clean accuracy {row.clean_accuracy:.3f}"]
    if row.attack_success is not None:
        told.insert(0, f"attack success {row.attack_success:.3f}")
    if not row.kept:
        told.append(f"DROPPED: {row.why}")
    return f"model {row.name}: {row.kind}, {', '.join(told)}, {row.seconds:.0f} s"


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
