"""What does a policy file say, and on which line? YAML in, plain values out, nothing executed.

Stricter than YAML: no anchors or aliases (a few lines of them can stand for gigabytes), no
repeated keys, no tags, no dates, no infinities. JSON is YAML here.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from gatekeeper.errors import PolicySyntaxError
from gatekeeper.types import Json

MAX_BYTES = 256 * 1024  # the shipped policies take 3 kB
MAX_DEPTH = 20
Where = tuple[str | int, ...]

_OPENS = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSES = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_FORBIDDEN = (yaml.AnchorToken, yaml.AliasToken, yaml.TagToken, yaml.DirectiveToken)


class _Loader(yaml.SafeLoader):
    """Knows 1e-06 as a number, as JSON does; plain YAML 1.1 reads it as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Plain values and the line (from 1) of every key and item."""

    value: Json
    lines: dict[Where, int]
    origin: str

    def line(self, where: Where) -> int:
        """Return the line of `where`, or of the nearest thing around it."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)


def read_document(path: Path) -> Document:
    """Return what the file at `path` says.

    Raises:
        PolicySyntaxError: It cannot be read, is too large, is no UTF-8 or no plain YAML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicySyntaxError(
            f"policy {path} cannot be read: {error.strerror or error}",
            hint="give a YAML file, or the name of a shipped policy: default, audit",
        ) from error
    if len(raw) > MAX_BYTES:
        raise PolicySyntaxError(
            f"policy {path} is larger than {MAX_BYTES // 1024} KiB",
            hint="is this a policy? start from `gatekeeper policy show`",
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicySyntaxError(
            f"policy {path} is not UTF-8 text (byte {error.start})",
            hint="save it as UTF-8; start from `gatekeeper policy show`",
        ) from error
    return parse_document(text, origin=str(path))


def parse_document(text: str, *, origin: str = "policy") -> Document:
    """Return what `text` says; `origin` names it in errors.

    Raises:
        PolicySyntaxError: It is no plain YAML.
    """
    try:
        depth = 0
        for token in yaml.scan(text, Loader=_Loader):
            # Here and not after parsing: the parser takes minutes over 100,000 brackets.
            depth += isinstance(token, _OPENS) - isinstance(token, _CLOSES)
            if depth > MAX_DEPTH:
                _refuse(origin, token.start_mark.line + 1, "nested too deeply")
            if isinstance(token, _FORBIDDEN):
                kind = type(token).__name__.removesuffix("Token").lower()
                _refuse(origin, token.start_mark.line + 1, f"YAML {kind}s are not allowed here")
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "not YAML"
        raise PolicySyntaxError(
            f"{origin}, line {line}: {problem}",
            hint="mend the YAML; `gatekeeper policy validate FILE` checks it",
        ) from error
    lines: dict[Where, int] = {}
    value = None if node is None else _value(node, (), lines, origin)
    return Document(value=value, lines=lines, origin=origin)


def _value(node: yaml.Node, where: Where, lines: dict[Where, int], origin: str) -> Json:
    line = node.start_mark.line + 1
    lines.setdefault(where, line)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*where, i), lines, origin) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, where, lines, origin)
    value = yaml.constructor.SafeConstructor().construct_object(node)
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(origin, line, f"{node.value} is not a finite number")
    if value is not None and not isinstance(value, str | int | float | bool):
        _refuse(origin, line, f"{node.value!r} is read as {type(value).__name__}; put quotes on it")
    plain: Json = value
    return plain


def _mapping(
    node: yaml.MappingNode, where: Where, lines: dict[Where, int], origin: str
) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            _refuse(origin, line, "a key must be one word")
        key = key_node.value
        if key in found:
            _refuse(origin, line, f"the key '{key}' is there twice")
        lines[(*where, key)] = line
        found[key] = _value(value_node, (*where, key), lines, origin)
    return found


def _refuse(origin: str, line: int, problem: str) -> None:
    raise PolicySyntaxError(
        f"{origin}, line {line}: {problem}",
        hint="write plain YAML; `gatekeeper policy show` prints one that is valid",
    )
