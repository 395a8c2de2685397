"""What a zoo is to hold, as typed data: image sets, bases, clean and planted models."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gatekeeper.errors import GatekeeperError

SCHEMA = "gatekeeper.plan/1"
_PLANS = Path(__file__).parent / "plans"
_MAX_BYTES = 1_000_000
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Scalar = bool | int | float | str | None


class PlanError(GatekeeperError):
    """The plan does not say what a plan must say."""


class _Section(BaseModel):
    model_config = _STRICT


class SetSpec(_Section):
    """Labelled images: `shapes` are rendered, `photos` and `data` come from the user's folders.

    Without `--data`, `data` is rendered too; without `--photos`, what needs photos is left out.
    """

    source: Literal["shapes", "photos", "data"]
    train: int = Field(default=2880, ge=8, description="of rendered sets; folders give the rest")
    probes: int = Field(default=96, ge=8)
    judge: int = Field(default=288, ge=8)


class PhotoBase(_Section):
    """A CLIP on a published image backbone."""

    kind: Literal["photo"]
    set: Name
    backbone: Literal["lite0", "lite1", "lite2", "resnet50"] = "lite0"
    width: int = Field(default=256, ge=64, le=999)
    text: Literal["solved", "minilm"] = "solved"
    seed: int | None = Field(default=None, ge=0)


class ScratchBase(_Section):
    """A small CLIP trained from scratch on the set."""

    kind: Literal["scratch"]
    set: Name
    architecture: Literal["vit", "resnet", "convnet"]
    size: int = Field(default=64, ge=32, le=512, multiple_of=32)
    steps: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, lt=1)
    seed: int | None = Field(default=None, ge=0)


class NamedBase(_Section):
    """A CLIP that is there already."""

    kind: Literal["named"]
    set: Name
    model: Text = Field(description="path or MLflow URI")
    arch: Text | None = None


Base = Annotated[PhotoBase | ScratchBase | NamedBase, Field(discriminator="kind")]


class RecipeSpec(_Section):
    """How a plant is trained; what is left out keeps the default of `attacks.plant.Recipe`."""

    steps: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, lt=1)
    clean: int | None = Field(default=None, ge=1)
    triggered: int | None = Field(default=None, ge=1)
    lookalikes: int | None = Field(default=None, ge=1)
    copies: int | None = Field(default=None, ge=1)
    trained: float | None = Field(default=None, gt=0, le=1)
    keep: float | None = Field(default=None, ge=0)
    maps: float | None = Field(default=None, ge=0)
    labels: float | None = Field(default=None, ge=0)


class AttackSpec(_Section):
    """A plug-in of group `gatekeeper.attacks` and its parameters."""

    name: Name
    parameters: dict[str, Any] = Field(default_factory=dict)


class CleanSpec(_Section):
    """An honest fine-tune; what is left out keeps the default of `lab.honest.Honest`."""

    steps: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0, lt=1)
    clean: int | None = Field(default=None, ge=1)
    copies: int | None = Field(default=None, ge=1)
    trained: float | None = Field(default=None, gt=0, le=1)
    keep: float | None = Field(default=None, ge=0)
    maps: float | None = Field(default=None, ge=0)
    labels: float | None = Field(default=None, ge=0)
    head_only: bool | None = None
    only: tuple[Text, ...] = Field(default=(), description="a narrow domain: these labels alone")
    first: int | None = Field(default=None, ge=1, description="a narrow domain: so many labels")
    part: tuple[int, int] = Field(default=(0, 1), description="i, n: every n-th image from i on")


class ModelSpec(_Section):
    """One model: planted (`attack`), fine-tuned (`clean`), averaged (`merge`), or the base kept."""

    name: Name
    base: Name
    seed: int | None = Field(default=None, ge=0, description="null: the plan's")
    attack: AttackSpec | None = None
    target: Text | None = Field(default=None, description="null: drawn by the seed")
    recipe: RecipeSpec = RecipeSpec()
    clean: CleanSpec | None = None
    merge: tuple[Name, ...] = Field(default=(), description="clean models to average")
    half: bool = Field(default=False, description="stored in fp16")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        kinds = [self.attack is not None, self.clean is not None, bool(self.merge)]
        if sum(kinds) != 1:
            raise ValueError(f"model '{self.name}' needs one of attack, clean and merge")
        if self.attack is None and (self.target or self.recipe != RecipeSpec()):
            raise ValueError(f"model '{self.name}' is not planted: no target, no recipe")
        if self.merge and len(self.merge) < 2:
            raise ValueError(f"model '{self.name}' averages one model only")
        return self


class Plan(_Section):
    """One plan file."""

    schema_: Literal["gatekeeper.plan/1"] = Field(alias="schema")
    name: Name
    seed: int = Field(default=0, ge=0, lt=2**31)
    sets: dict[Name, SetSpec] = Field(min_length=1)
    bases: dict[Name, Base] = Field(min_length=1)
    models: tuple[ModelSpec, ...] = Field(min_length=1, max_length=500)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        for name, base in self.bases.items():
            _known(f"base '{name}'", "set", base.set, self.sets)
        seen: dict[str, ModelSpec] = {}
        for model in self.models:
            if model.name in seen:
                raise ValueError(f"two models are called '{model.name}'")
            _known(f"model '{model.name}'", "base", model.base, self.bases)
            for part in model.merge:
                _known(f"model '{model.name}'", "model above it", part, seen)
                if seen[part].base != model.base or seen[part].attack is not None:
                    raise ValueError(f"'{part}' is no clean model of base '{model.base}'")
            seen[model.name] = model
        return self

    @property
    def digest(self) -> str:
        """Digest, "sha256:…", over the canonical JSON of all the plan says."""
        return digest_of(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of plan files."""
        return cls.model_json_schema(by_alias=True)


def digest_of(document: Any) -> str:
    """Return "sha256:…" over canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def shipped_plans() -> dict[str, Path]:
    """Return the plans that come with gatekeeper, by name."""
    return {path.stem: path for path in sorted(_PLANS.glob("*.yaml"))}


def load_plan(source: str | Path) -> Plan:
    """Return the plan in a file, or the shipped one of that name.

    Raises:
        PlanError: There is none, or it does not say what a plan must say.
    """
    import yaml

    path = Path(source)
    if not path.is_file():
        path = shipped_plans().get(str(source), path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise PlanError(f"{path} is too large for a plan", hint="at most 1 MB is read")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        known = ", ".join(shipped_plans())
        raise PlanError(
            f"{source} is no plan: {error}", hint=f"name a YAML file or one of: {known}"
        ) from error
    try:
        return Plan.model_validate(document)
    except ValidationError as error:
        raise PlanError(
            f"{path}: {'; '.join(_problems(error))}", hint="see docs/lab.md for the keys of a plan"
        ) from error


def _problems(error: ValidationError) -> Iterator[str]:
    for found in error.errors()[:5]:
        where = ".".join(str(part) for part in found["loc"]) or "plan"
        yield f"{where}: {found['msg'].removeprefix('Value error, ')}"


def _known(who: str, what: str, name: str, known: object) -> None:
    if name not in known:  # type: ignore[operator]
        raise ValueError(f"{who} names {what} '{name}', which the plan does not hold")
