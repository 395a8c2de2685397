"""How does a record become JSON and come back? One walk over the dataclasses' own types.

Writing, strict reading and the published JSON Schema all follow from `gatekeeper.types`, so they
cannot drift apart.
"""

import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import Any, TypeVar

from gatekeeper.errors import EvidenceError, GatekeeperError
from gatekeeper.types import Json

R = TypeVar("R")
RATES = frozenset(
    {"flip_rate", "oracle_agrees", "clean_accuracy", "attack_success", "recovered_accuracy"}
    | {"agreement", "rebound"}
)
"""Fields that hold a fraction in [0, 1], wherever they stand."""

# Legal inside JSON, but a terminal would obey them or a file could not hold them: C1 controls,
# line separators, direction overrides, lone surrogates (bytes of a file name that is no UTF-8).
_UNSAFE = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def dumps(value: Json, *, indent: int | None = 2) -> str:
    """Return `value` as JSON text: UTF-8 safe, no raw control characters, order as given."""
    separators = None if indent is not None else (",", ":")
    text = json.dumps(
        value, indent=indent, separators=separators, ensure_ascii=False, allow_nan=False
    )
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def loads(text: str, *, origin: str) -> Json:
    """Return what JSON `text` says: no repeated keys, no infinities.

    Raises:
        GatekeeperError: It is no such JSON; `origin` is named.
    """
    try:
        value: Json = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise GatekeeperError(
            f"{origin} is no JSON that can be read: {error}",
            hint="give a report.json that `gatekeeper scan` wrote",
        ) from error
    return value


def to_plain(value: Any, where: str = "report") -> Json:
    """Return a record as plain JSON values: fields in their order, mappings by key.

    Raises:
        EvidenceError: A number is not finite, or a value has no JSON form.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)
        }
    if isinstance(value, Mapping):
        items = sorted((str(k), v) for k, v in value.items())
        return {k: to_plain(v, f"{where}.{k}") for k, v in items}
    if isinstance(value, list | tuple):
        return [to_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        raise EvidenceError(
            f"{where} is {value}, and evidence holds finite numbers alone",
            hint="leave out what could not be measured",
        )
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise EvidenceError(
        f"{where} is a {type(value).__name__}, which has no place in a report",
        hint="report it: a part of gatekeeper handed on something else than a record",
    )


def from_plain(kind: type[R], value: Json, where: str = "report") -> R:
    """Return the record of class `kind` that `value` describes, to the letter.

    Raises:
        GatekeeperError: A key is missing or unknown, or a value is of another type.
    """
    built: R = _read(kind, value, where)
    return built


def schema_of(kind: Any, name: str = "") -> dict[str, Any]:
    """Return the JSON Schema of records of class `kind`, by the same rules as `from_plain`."""
    kind, optional = _unwrap(kind)
    if optional:
        return {"anyOf": [schema_of(kind, name), {"type": "null"}]}
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {
            "type": "object",
            "additionalProperties": False,
            "required": [f.name for f in fields(kind) if _required(f)],
            "properties": {f.name: schema_of(hints[f.name], f.name) for f in fields(kind)},
        }
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple and args[-1] is Ellipsis:
        return {"type": "array", "items": schema_of(args[0])}
    if origin is tuple:
        each = [schema_of(a) for a in args]
        return {"type": "array", "prefixItems": each, "minItems": len(args), "maxItems": len(args)}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": schema_of(args[1])}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"enum": [member.value for member in kind]}
    if kind in _SCALARS:
        limits = {"minimum": 0, "maximum": 1} if name in RATES and kind is float else {}
        return {"type": _SCALARS[kind], **limits}
    return {}  # Json: anything


_SCALARS: dict[Any, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}


def _read(kind: Any, value: Any, where: str) -> Any:
    kind, optional = _unwrap(kind)
    if optional and value is None:
        return None
    if is_dataclass(kind):
        return _read_record(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return _read_tuple(args, value, where)
    if origin is not None and issubclass(origin, Mapping):
        found = _expect(value, dict, where)
        return {key: _read(args[1], item, f"{where}.{key}") for key, item in found.items()}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if value not in [member.value for member in kind]:
            _wrong(where, value, f"one of {', '.join(kind)}")
        return kind(value)
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            _wrong(where, value, "a number")
        number = float(value)
        if where.rpartition(".")[2] in RATES and not 0 <= number <= 1:
            _wrong(where, value, "a fraction from 0 to 1")
        return number
    return _expect(value, kind, where) if kind in _SCALARS else value


def _read_record(kind: Any, value: Any, where: str) -> Any:
    found = _expect(value, dict, where)
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    for key in found:
        if key not in known:
            _wrong(f"{where}.{key}", found[key], "no such key")
    for name, f in known.items():
        if name not in found and _required(f):
            _wrong(f"{where}.{name}", None, "a value; it is missing")
    return kind(**{k: _read(hints[k], item, f"{where}.{k}") for k, item in found.items()})


def _read_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    found = _expect(value, list, where)
    kinds = [args[0]] * len(found) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(found):
        _wrong(where, value, f"{len(kinds)} items")
    return tuple(
        _read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, found, strict=True))
    )


def _expect(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names: dict[Any, str] = {dict: "an object", list: "a list"}
        _wrong(where, value, names.get(kind, kind.__name__))
    return value


def _wrong(where: str, value: object, expected: str) -> typing.NoReturn:
    raise GatekeeperError(
        f"{where}: got {str(value)[:80]!r}, expected {expected}",
        hint="the schema is gatekeeper/evidence/report.schema.json; scan again to get a new report",
    )


def _unwrap(kind: Any) -> tuple[Any, bool]:
    """Return `X, True` for `X | None`, else the type itself (Json is no record: left alone)."""
    if typing.get_origin(kind) in {types.UnionType, typing.Union}:
        args = [a for a in typing.get_args(kind) if a is not type(None)]
        if len(args) == 1:
            return args[0], True
    return kind, False


def _required(f: Any) -> bool:
    return bool(f.default is MISSING and f.default_factory is MISSING)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number
