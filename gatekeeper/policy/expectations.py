"""How is a policy said in Great Expectations? Rules in, one result per rule out.

The frame has one row per measurement, columns `metric` and `value`. Range expectations skip what
is not there (a missing metric would pass), so every rule becomes three: its metric is present, its
value is not null, and its value lies in a range with both ends finite.
"""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatekeeper.errors import MissingExtraError, PolicyError
from gatekeeper.policy.schema import Rule
from gatekeeper.types import Json

_VOLATILE = {"id", "batch_id"}
_LARGEST = sys.float_info.max
Key = tuple[str, str, float | None]  # part, metric, bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Which rules hold, and Great Expectations' own result without clocks and random ids."""

    ok: Mapping[str, bool]  # by rule id
    validation: Mapping[str, Json]


def check_rules(rules: Sequence[Rule], measurements: Mapping[str, float]) -> Checked:
    """Evaluate `rules` over finite `measurements` with Great Expectations.

    Raises:
        PolicyError: Great Expectations failed, or left a rule without an answer.
        MissingExtraError: It is not installed.
    """
    import pandas as pd

    frame = pd.DataFrame(
        {"metric": list(measurements), "value": [float(v) for v in measurements.values()]}
    ).astype({"metric": "object", "value": "float64"})
    parts = {rule.id: _parts(rule) for rule in rules}
    wanted: dict[Key, Any] = {}
    for rule in rules:
        for key in parts[rule.id]:
            owners = [other.id for other in rules if key in parts[other.id]]
            wanted.setdefault(key, _expectation(key, rule, owners))
    raw = run_suite("policy", frame, list(wanted.values()))
    answers = _answers(raw)
    missing = [key for key in wanted if key not in answers]
    if missing:
        raise PolicyError(
            f"Great Expectations gave no answer for {missing[0][0]} of '{missing[0][1]}'",
            hint="nothing was decided; check the installed great-expectations version",
        )
    ok = {rule.id: all(answers[key] for key in parts[rule.id]) for rule in rules}
    return Checked(ok=ok, validation=raw)


def run_suite(name: str, frame: Any, expectations: Sequence[Any]) -> dict[str, Json]:
    """Run `expectations` over a pandas `frame`; return the result as plain JSON, reproducible.

    Nothing is written to disk and nothing is sent: the context lives in memory alone.

    Raises:
        PolicyError: Great Expectations raised, or one of its expectations did.
    """
    gx = great_expectations()
    try:
        context = gx.get_context(mode="ephemeral", project_config=_in_memory())
        asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe(name)
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=list(expectations)))
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        result = definition.run(batch_parameters={"dataframe": frame}).to_json_dict()
    except Exception as error:  # third-party engine: whatever it raises, nothing is decided
        raise PolicyError(
            f"Great Expectations failed: {type(error).__name__}: {error}",
            hint="nothing was decided; check the installed great-expectations version",
        ) from error
    raw = _reproducible(result)
    _refuse_exceptions(raw)
    return raw


def _in_memory() -> Any:
    """Return a context's configuration that makes no folder, sends nothing and shows no bars."""
    from great_expectations.data_context.types import base

    return base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars=base.ProgressBarsConfig(globally=False, metric_calculations=False),
    )


def great_expectations() -> Any:
    """Return the module, its analytics off.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when it is imported
    try:
        import great_expectations as gx
    except ImportError as error:
        raise MissingExtraError(
            "evaluating a policy needs great-expectations",
            hint="pip install 'mlflow-gatekeeper[scan]'",
        ) from error
    return gx


def _parts(rule: Rule) -> tuple[Key, Key, Key]:
    return (
        ("present", rule.metric, None),
        ("not null", rule.metric, None),
        (rule.op, rule.metric, rule.value),
    )


def _expectation(key: Key, rule: Rule, owners: list[str]) -> Any:
    """Return the expectation of `key`, shared by its `owners`: a suite drops equal ones."""
    great_expectations()
    from great_expectations import expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    part, metric, bound = key
    meta = {"part": part, "metric": metric, "bound": bound, "rules": owners}
    if part == "present":
        return gxe.ExpectColumnDistinctValuesToContainSet(
            column="metric", value_set=[metric], meta=meta
        )
    where = Column("metric") == metric
    if part == "not null":
        return gxe.ExpectColumnValuesToNotBeNull(column="value", row_condition=where, meta=meta)
    common = {"column": "value", "row_condition": where, "meta": meta}
    if rule.op in {"<=", "<"}:
        return gxe.ExpectColumnMaxToBeBetween(
            min_value=-_LARGEST, max_value=bound, strict_max=rule.op == "<", **common
        )
    if rule.op in {">=", ">"}:
        return gxe.ExpectColumnMinToBeBetween(
            min_value=bound, max_value=_LARGEST, strict_min=rule.op == ">", **common
        )
    return gxe.ExpectColumnMaxToBeBetween(min_value=bound, max_value=bound, **common)


def _answers(raw: Mapping[str, Any]) -> dict[Key, bool]:
    found: dict[Key, bool] = {}
    for item in raw["results"]:
        meta = item["expectation_config"]["meta"]
        key = (str(meta["part"]), str(meta["metric"]), meta["bound"])
        found[key] = found.get(key, True) and item["success"] is True
    return found


def _reproducible(result: Mapping[str, Any]) -> dict[str, Json]:
    """Keep what Great Expectations said; drop its clocks, random ids and numpy numbers."""
    meta = {"great_expectations_version": result["meta"]["great_expectations_version"]}
    kept = {key: result[key] for key in ("success", "suite_name", "statistics", "results")}
    plain = _plain({**kept, "meta": meta})
    if not isinstance(plain, dict):
        raise PolicyError("Great Expectations gave no result", hint="nothing was decided")
    return plain


def _plain(value: Any) -> Json:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if k not in _VOLATILE}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):  # numpy
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str) else str(value)


def _refuse_exceptions(raw: Mapping[str, Any]) -> None:
    for item in raw["results"]:
        told = item.get("exception_info") or {}
        # Two shapes: flat, or one record per failed metric (seen in 1.24.1).
        records = [told] if "raised_exception" in told else list(told.values())
        for record in records:
            if isinstance(record, Mapping) and record.get("raised_exception"):
                raise PolicyError(
                    f"Great Expectations could not evaluate an expectation: "
                    f"{record.get('exception_message')}",
                    hint="nothing was decided; check the installed great-expectations version",
                )
