"""Does a safetensors file say exactly where its numbers lie, and nothing else?

Format: 8 bytes little-endian header length, a JSON object, then the numbers. The checks follow the
format's own rules: names unique, spans in order, without gap or overlap, as long as dtype times
shape asks for, and no byte behind the last.
"""

import json
from dataclasses import dataclass
from typing import Any

from gatekeeper.intake.pickle_values import Malformed

MAX_HEADER = 16 << 20  # bytes; 10,000 tensors take one
MAX_TENSORS = 200_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor: where it lies in the file, in bytes from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the file says of itself."""

    entries: tuple[Entry, ...]  # in file order
    metadata: dict[str, str]


def looks_like(start: bytes, size: int) -> bool:
    """Return whether a file of `size` bytes that begins with `start` claims to be safetensors."""
    if len(start) < 9 or start[8:9] != b"{":
        return False
    return 2 <= int.from_bytes(start[:8], "little") <= max(size - 8, 0)


def read_header(head: bytes | memoryview, size: int) -> Header:
    """Return the header of a file of `size` bytes; `head` holds at least its header.

    Raises:
        Malformed: It breaks one of the format's rules; says which.
    """
    if len(head) < 8:
        raise Malformed("shorter than a safetensors header")
    length = int.from_bytes(bytes(head[:8]), "little")
    if length > MAX_HEADER:
        raise Malformed(f"a header of {length} bytes, expected at most {MAX_HEADER}")
    if 8 + length > min(size, len(head)):
        raise Malformed("a header that reaches beyond the file")
    raw = _parse(bytes(head[8 : 8 + length]))
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Malformed("metadata that is no map of texts")
    if len(raw) > MAX_TENSORS:
        raise Malformed(f"{len(raw)} tensors, expected at most {MAX_TENSORS}")
    base = 8 + length
    entries = sorted(
        (_entry(name, value, base) for name, value in raw.items()), key=lambda e: (e.start, e.stop)
    )
    at = base
    for entry in entries:
        if entry.start != at:
            raise Malformed(f"{entry.name}: its bytes overlap another tensor's or leave a gap")
        at = entry.stop
    if at != size:
        raise Malformed(f"{size - at} bytes behind the last tensor")
    return Header(entries=tuple(entries), metadata=metadata)


def _parse(text: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a header that is no JSON: {error}") from error
    if not isinstance(raw, dict):
        raise Malformed("a header that is no JSON object")
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise Malformed("a name that stands twice in the header")
    return out


def _entry(name: str, value: object, base: int) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise Malformed(f"{name}: an entry with other keys than dtype, shape, data_offsets")
    dtype, shape, span = value["dtype"], value["shape"], value["data_offsets"]
    if dtype not in BITS:
        raise Malformed(f"{name}: dtype {dtype!r}")
    if not _naturals(shape) or not _naturals(span) or len(span) != 2 or span[0] > span[1]:
        raise Malformed(f"{name}: shape or offsets that are no sizes")
    wanted = BITS[dtype]
    for side in shape:
        wanted *= side
    if wanted != 8 * (span[1] - span[0]):
        raise Malformed(f"{name}: {span[1] - span[0]} bytes for {dtype} {shape}")
    return Entry(
        name=name, dtype=dtype, shape=tuple(shape), start=base + span[0], stop=base + span[1]
    )


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 48 for n in value
    )
