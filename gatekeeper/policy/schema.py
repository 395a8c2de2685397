"""What must a model satisfy, what is protected, and how is it scanned? The policy as typed data.

Imports no torch, no pandas and no Great Expectations: the MLflow server loads this module.
"""

import difflib
import fnmatch
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from gatekeeper.errors import PolicySyntaxError
from gatekeeper.policy.document import Document, Where, read_document
from gatekeeper.policy.metrics import METRICS
from gatekeeper.types import Reference, Severity

DEFAULT_NAME = "default"
Op = Literal["<=", "<", ">=", ">", "=="]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
# Printable ASCII: names that only look like a protected one are refused by the gate (contract, 7).
Pattern = Annotated[str, Field(pattern=r"^[\x21-\x7e][\x20-\x7e]*$", max_length=250)]


_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Section(BaseModel):
    model_config = _STRICT


class Protects(_Section):
    """Which names only a passing version may take; models and copy targets are globs."""

    models: tuple[Pattern, ...] = Field(default=("*",), description="registered models, as globs")
    aliases: tuple[Pattern, ...] = Field(
        default=("production", "prod", "champion"), description="aliases that need a decision"
    )
    stages: tuple[Literal["Staging", "Production", "Archived"], ...] = ("Production",)
    copy_targets: tuple[Pattern, ...] = Field(
        default=(), description="registered models, as globs, that take approved versions alone"
    )


class Rule(_Section):
    """One bound on one measurement; `critical` rules decide, the others are shown."""

    id: Name
    metric: Annotated[str, Field(json_schema_extra={"enum": sorted(METRICS)})]
    op: Op
    value: float
    severity: Severity = Severity.CRITICAL
    why: Text


class EvidenceTerms(_Section):
    """How old a decision may grow, and how many probes one must rest on."""

    max_age_days: int = Field(default=90, ge=1, le=3650)
    min_probes: int = Field(default=32, ge=1, le=100_000)


class ScanSettings(_Section):
    """How a worker scans what a plain client promotes; None: the scanner's default.

    In `models`, None means "as in `scan`".
    """

    anchor: Text | None = Field(default=None, description="MODEL that is trusted")
    probes: Text | None = Field(default=None, description="clean images; null: the embedded set")
    labels: Text | None = Field(default=None, description="label file")
    oracle: Text | None = Field(default=None, description="null: regions")
    arch: Text | None = Field(default=None, description="open_clip name or config")
    detectors: tuple[Name, ...] | None = Field(default=None, description="null: all built-in ones")
    budget: float | None = Field(default=None, gt=0, description="image passes")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="null: 0")


class ModelScan(_Section):
    """Scan settings of the registered models whose name matches a glob."""

    name: Pattern
    scan: ScanSettings


# A dataclass: the contract's word `register` is taken in every pydantic model (ABCMeta.register).
@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class RectifyTerms:
    """When a worker makes a cleaned version, and what becomes of it."""

    when: Literal["fail", "never"] = "fail"
    register: bool = True
    promote: bool = Field(default=False, description="move the alias without --accept-rectified")


class OnFail(_Section):
    """What follows a failing scan."""

    rectify: RectifyTerms = RectifyTerms()


class Waivers(_Section):
    """Whether a person may let a failing version through, and for how long."""

    allowed: bool = False
    max_days: int = Field(default=30, ge=1, le=365)
    approvers: tuple[Text, ...] = ()


class Policy(_Section):
    """One policy file. Changing anything in it changes `digest` and so ends earlier decisions."""

    name: Name
    mode: Literal["enforce", "warn", "audit"] = "enforce"
    protects: Protects = Protects()
    unrecognised: Literal["allow", "refuse"] = Field(
        default="allow", description="what becomes of models that hold no CLIP"
    )
    rules: tuple[Rule, ...] = Field(min_length=1, max_length=200)
    evidence: EvidenceTerms = EvidenceTerms()
    scan: ScanSettings = ScanSettings()
    models: tuple[ModelScan, ...] = ()
    on_fail: OnFail = OnFail()
    waivers: Waivers = Waivers()

    @model_validator(mode="after")
    def _rules_can_decide(self) -> Self:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.metric not in METRICS:
                near = difflib.get_close_matches(rule.metric, METRICS, n=1)
                better = f"; did you mean '{near[0]}'?" if near else ""
                raise ValueError(
                    f"rule '{rule.id}' speaks of '{rule.metric}', which no scan measures{better}"
                )
            if rule.id in seen:
                raise ValueError(f"two rules are called '{rule.id}'")
            seen.add(rule.id)
        if not any(rule.severity is Severity.CRITICAL for rule in self.rules):
            raise ValueError("no rule is critical, so nothing could ever fail")
        return self

    @property
    def digest(self) -> str:
        """Digest, "sha256:…", over the canonical JSON of all the policy says, defaults included.

        Comments, order of keys and layout of the file do not count; every value does.
        """
        text = json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False
        )
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def reference(self) -> Reference:
        """Name and digest, as reports and decisions carry them."""
        return Reference(name=self.name, digest=self.digest)

    def scan_for(self, model_name: str) -> ScanSettings:
        """Return the settings for a registered model: `scan`, overridden by the first match.

        Globs are compared case-sensitively, in the order of the file.
        """
        for entry in self.models:
            if fnmatch.fnmatchcase(model_name, entry.name):
                return self.scan.model_copy(update=entry.scan.model_dump(exclude_none=True))
        return self.scan

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of a policy file, as published in `policy.schema.json`."""
        schema = cls.model_json_schema()
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "urn:gatekeeper:policy:1",
            **schema,
            "title": "gatekeeper policy",
        }


def load_policy(source: Path | str | None = None) -> Policy:
    """Return the policy in the file `source`, the shipped one of that name, or the default one.

    A name without a slash, a dot and a file of that name is looked up among the shipped ones.

    Raises:
        PolicySyntaxError: The file says something else than a policy must; names line and key.
    """
    if source is None:
        source = DEFAULT_NAME
    path = Path(source)
    if not path.exists() and isinstance(source, str) and source in shipped_policies():
        path = shipped_policies()[source]
    return build_policy(read_document(path))


def build_policy(document: Document) -> Policy:
    """Return the policy that `document` says.

    Raises:
        PolicySyntaxError: Unknown or missing keys, wrong types, unknown metrics, no rules, …
    """
    if not isinstance(document.value, dict):
        raise PolicySyntaxError(
            f"{document.origin} is no policy: got {type(document.value).__name__}, "
            "expected a mapping with name and rules",
            hint="start from `gatekeeper policy show`",
        )
    try:
        return Policy.model_validate_json(json.dumps(document.value))
    except ValidationError as error:
        raise _explained(error, document) from error


def shipped_policies() -> dict[str, Path]:
    """Return the policies that come with the package, by name."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "policies", package.parent / "policies"):
        if (folder / f"{DEFAULT_NAME}.yaml").is_file():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    raise PolicySyntaxError(
        "the shipped policies are missing from this installation",
        hint="reinstall mlflow-gatekeeper, or name a file with --policy",
    )


def _explained(error: ValidationError, document: Document) -> PolicySyntaxError:
    problems = [_problem(item, document) for item in error.errors()[:5]]
    more = error.error_count() - len(problems)
    text = "; ".join(problems) + (f"; and {more} more" if more else "")
    return PolicySyntaxError(
        f"{document.origin}: {text}",
        hint="`gatekeeper policy show` prints a valid one, docs/policy.md explains every key",
    )


def _problem(item: Any, document: Document) -> str:
    where: Where = item["loc"]
    dotted = ".".join(str(part) for part in where) or "policy"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        message = f"unknown key{_near(where)}"
    elif item["type"] == "missing":
        message = "is missing"
    elif isinstance(item.get("input"), str | int | float | bool):
        message = f"{message} (got {str(item['input'])[:80]!r})"
    return f"line {document.line(where)}, {dotted}: {message}"


def _near(where: Where) -> str:
    sections = (Policy, Protects, Rule, EvidenceTerms, ScanSettings, OnFail, Waivers)
    known = sorted({field for section in sections for field in section.model_fields})
    near = difflib.get_close_matches(str(where[-1]), known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
