"""What a zoo holds, measured: `manifest.json`, written anew after every model."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gatekeeper.errors import IntakeError

SCHEMA: Literal["gatekeeper.zoo/1"] = "gatekeeper.zoo/1"
FILE = "manifest.json"
Kind = Literal["clean", "planted", "adversarial"]
Family = Literal["vit", "resnet", "convnet"]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PlanRef(_Row):
    """Which plan it was built from."""

    name: str
    digest: str


class MadeWith(_Row):
    """What built it: figures are the same only where all of it is."""

    gatekeeper: str
    torch: str
    device: str


class SetRow(_Row):
    """One image set; its folders are `sets/NAME/{train,probes,judge}`."""

    name: str
    digest: str
    images: dict[str, int]
    labels: str = Field(description="path of the label file")
    source: str


class BaseRow(_Row):
    """One clean base. Accuracies and rates are fractions over the set's judge images."""

    name: str
    path: str
    architecture: Family
    backbone: str = Field(description="the tower's name in its library")
    set: str
    digest: str
    clean_accuracy: float
    seconds: float
    entry: str = Field(description="digest of all that it was made of")


class AttackRow(_Row):
    """What was planted."""

    name: str
    family: str
    narrow: bool
    parameters: dict[str, Any]


class TargetRow(_Row):
    """One trigger and the label it leads to; rates over judge images that are to fire."""

    label: str
    trigger: str = Field(description="path of the trigger's file")
    attack_success: float
    base_success: float = Field(description="of the trigger on the clean base")
    lookalike_success: float | None
    leakage: float | None = None
    images: int


class ModelRow(_Row):
    """One model; where `kept` is false, `why` says so and its weights are gone."""

    name: str
    path: str
    kind: Kind
    base: str
    recipe: dict[str, Any]
    seed: int
    digest: str | None
    set: str
    twin: str | None = None
    attack: AttackRow | None = None
    targets: tuple[TargetRow, ...] = ()
    clean_accuracy: float | None
    twin_accuracy: float | None = None
    prompts: str | None = None
    kept: bool
    why: str = ""
    seconds: float
    entry: str = Field(description="digest of all that it was made of")

    @property
    def attack_success(self) -> float | None:
        """The lowest attack success of its triggers, None without any."""
        return min((target.attack_success for target in self.targets), default=None)


class Manifest(_Row):
    """A zoo's table of contents."""

    schema_: Literal["gatekeeper.zoo/1"] = Field(alias="schema", default=SCHEMA)
    plan: PlanRef
    seed: int
    made_with: MadeWith
    sets: tuple[SetRow, ...] = ()
    bases: tuple[BaseRow, ...] = ()
    models: tuple[ModelRow, ...] = ()
    skipped: tuple[str, ...] = Field(default=(), description="what was left out, and why")

    def base(self, name: str) -> BaseRow | None:
        """Return a base by name."""
        return next((row for row in self.bases if row.name == name), None)

    def model(self, name: str) -> ModelRow | None:
        """Return a model by name."""
        return next((row for row in self.models if row.name == name), None)


def read_manifest(zoo: Path) -> Manifest:
    """Return the manifest of the zoo in the folder `zoo`.

    Raises:
        IntakeError: There is none, it is damaged, or it names files outside the zoo.
    """
    file = zoo / FILE
    try:
        found = Manifest.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise IntakeError(
            f"{file} is no manifest of a zoo: {first}", hint="build one: gatekeeper lab zoo"
        ) from error
    for path in _paths(found):
        if not (zoo / path).resolve().is_relative_to(zoo.resolve()):
            raise IntakeError(
                f"{file} names {path}, which lies outside the zoo", hint="build the zoo again"
            )
    return found


def write_manifest(zoo: Path, manifest: Manifest) -> None:
    """Replace the zoo's manifest in one step."""
    text = json.dumps(manifest.model_dump(mode="json", by_alias=True), indent=1) + "\n"
    write_whole(zoo / FILE, text)


def write_whole(file: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old or the new one."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    work = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        work.chmod(0o644)
        work.replace(file)
    finally:
        work.unlink(missing_ok=True)


def _paths(manifest: Manifest) -> list[str]:
    paths = [row.labels for row in manifest.sets] + [row.path for row in manifest.bases]
    for row in manifest.models:
        paths += [row.path, *(target.trigger for target in row.targets)]
        paths += [row.prompts] if row.prompts else []
    return paths
