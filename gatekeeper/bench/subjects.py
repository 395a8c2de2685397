"""Which models are judged, with which images, and what is true of them?

Two kinds of folder are read: a zoo of `gatekeeper lab zoo`, and a user's own: models with a table
`models.csv` that says which are clean and which are planted.
"""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from gatekeeper.errors import IntakeError
from gatekeeper.intake.digest import tree_digest
from gatekeeper.lab.manifest import FILE, Manifest, ModelRow, read_manifest

Kind = Literal["clean", "planted", "adversarial"]
TABLE = "models.csv"
COLUMNS = (
    "path", "kind", "target", "trigger", "attack", "family", "anchor", "twin", "architecture",
    "prompts",
)  # fmt: skip
_HINT = f"name a folder with {FILE} (gatekeeper lab zoo) or {TABLE} (docs/bench.md)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A planted trigger and the label it leads to."""

    label: str
    trigger: Path | None  # None: nobody kept it
    attack_success: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The images at hand for a model: folders, as `--probes` takes them."""

    probes: Path  # what a detector or a repair is given
    labels: Path | None  # None: those of the probes
    judge: Path | None = None  # what proves a trigger; no detector sees it
    train: Path | None = None  # for fine-tuning after a repair
    digest: str = ""  # of all of it, as far as it is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model and what is true of it."""

    name: str
    path: Path
    kind: Kind
    digest: str
    images: Images
    anchor: Path | None = None
    anchor_digest: str = ""
    architecture: str = "unknown"
    base: str = ""
    attack: str = ""
    family: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    prompts: Path | None = None
    twin: Path | None = None  # the same training without the poison


@dataclass(frozen=True, slots=True, kw_only=True)
class Zoo:
    """All subjects of one folder."""

    name: str
    digest: str  # of the manifest or table
    subjects: tuple[Subject, ...]

    def only(self, globs: tuple[str, ...]) -> "Zoo":
        """Return the zoo with the subjects whose name matches one of `globs` (all where empty).

        Raises:
            IntakeError: None does.
        """
        wanted = tuple(s for s in self.subjects if _matches(s.name, globs or ("*",)))
        if not wanted:
            raise IntakeError(
                f"zoo '{self.name}' holds no model called {' or '.join(globs) or 'anything'}",
                hint="see the names in its manifest",
            )
        return Zoo(name=self.name, digest=self.digest, subjects=wanted)


def read_zoo(folder: Path) -> Zoo:
    """Return the models of a zoo of ours, or of a user's folder with `models.csv`.

    Raises:
        IntakeError: Neither is there, or what is there cannot be used.
    """
    for file, read in ((folder / FILE, _ours), (folder / TABLE, _theirs)):
        if file.is_file():
            digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
            subjects = tuple(read(folder))
            if not subjects:
                raise IntakeError(f"{file} lists no model", hint="build the zoo first")
            return Zoo(name=folder.resolve().name, digest=digest, subjects=subjects)
    raise IntakeError(f"{folder} holds neither {FILE} nor {TABLE}", hint=_HINT)


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _ours(zoo: Path) -> Iterator[Subject]:
    manifest = read_manifest(zoo)
    for row in manifest.models:
        if row.kept:
            yield _subject(zoo, manifest, row)


def _subject(zoo: Path, manifest: Manifest, row: ModelRow) -> Subject:
    base = manifest.base(row.base)
    made_of = next((one for one in manifest.sets if one.name == row.set), None)
    if base is None or made_of is None or row.digest is None:
        raise IntakeError(
            f"{zoo / FILE}: model {row.name} has no base, no image set or no digest",
            hint="build the zoo again",
        )
    parts = zoo / "sets" / made_of.name
    twin = manifest.model(row.twin) if row.twin else None
    return Subject(
        name=row.name,
        path=zoo / row.path,
        kind=row.kind,
        digest=row.digest,
        images=Images(
            probes=parts / "probes",
            labels=zoo / made_of.labels,
            judge=parts / "judge",
            train=parts / "train",
            digest=made_of.digest,
        ),
        anchor=zoo / base.path,
        anchor_digest=base.digest,
        architecture=base.architecture,
        base=row.base,
        attack=row.attack.name if row.attack else "",
        family=row.attack.family if row.attack else "",
        parameters=row.attack.parameters if row.attack else {},
        goals=tuple(
            Goal(label=t.label, trigger=zoo / t.trigger, attack_success=t.attack_success)
            for t in row.targets
        ),
        prompts=zoo / row.prompts if row.prompts else None,
        twin=zoo / twin.path if twin is not None and twin.kept else None,
    )


def _theirs(folder: Path) -> Iterator[Subject]:
    images = Images(
        probes=folder / "probes",
        labels=_if_there(folder / "labels.txt"),
        judge=_if_there(folder / "judge"),
        train=_if_there(folder / "train"),
    )
    if not images.probes.is_dir():
        raise IntakeError(
            f"{images.probes} is not a folder",
            hint="put clean images (and labels.csv) there: every detector is given them",
        )
    with (folder / TABLE).open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        unknown = set(rows.fieldnames or ()) - set(COLUMNS)
        if unknown or not {"path", "kind"} <= set(rows.fieldnames or ()):
            raise IntakeError(
                f"{folder / TABLE} has the columns {', '.join(rows.fieldnames or ())}",
                hint=f"path and kind are needed, known are {', '.join(COLUMNS)}",
            )
        for line, row in enumerate(rows, start=2):
            yield _their_subject(folder, row, images, f"{folder / TABLE} line {line}")


def _their_subject(folder: Path, row: dict[str, str], images: Images, where: str) -> Subject:
    known = {key: (value or "").strip() for key, value in row.items() if key is not None}
    if known["kind"] not in {"clean", "planted", "adversarial"}:
        raise IntakeError(
            f"{where}: kind is '{known['kind']}'", hint="write clean, planted or adversarial"
        )
    path = _inside(folder, known["path"], where)
    anchor = _inside(folder, known["anchor"], where) if known.get("anchor") else None
    target = known.get("target", "")
    trigger = _inside(folder, known["trigger"], where) if known.get("trigger") else None
    prompts = _inside(folder, known["prompts"], where) if known.get("prompts") else None
    twin = _inside(folder, known["twin"], where) if known.get("twin") else None
    kind: Kind = known["kind"]  # type: ignore[assignment]  # one of three, checked above
    return Subject(
        name=Path(known["path"]).name,
        path=path,
        kind=kind,
        digest=tree_digest(path)[0],
        images=images,
        anchor=anchor,
        anchor_digest=tree_digest(anchor)[0] if anchor else "",
        architecture=known.get("architecture") or "unknown",
        attack=known.get("attack") or ("unknown" if kind == "planted" else ""),
        family=known.get("family", ""),
        goals=(Goal(label=target, trigger=trigger),) if target else (),
        prompts=prompts,
        twin=twin,
    )


def _inside(folder: Path, name: str, where: str) -> Path:
    path = folder / name
    if not name or not path.exists() or not path.resolve().is_relative_to(folder.resolve()):
        raise IntakeError(
            f"{where} names '{name}', which is not in {folder}", hint="write a path inside it"
        )
    return path


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None
