"""Where do the weights lie in a torch file? A table of spans, made without running its pickle.

Three containers: torch's zip (since 1.6), the older stream of pickles followed by raw storages, and
`.pt2` (torch.export), whose weights are raw records named by a JSON file. What comes out is plain
JSON: for each tensor the file offset, dtype, shape and stride, from which the caller maps the file.

Sources: torch/serialization.py (`_save`, `_legacy_save`), torch/export/pt2_archive.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gatekeeper.intake import pickle_judge
from gatekeeper.intake.pickle_calls import WIDTHS
from gatekeeper.intake.pickle_values import Malformed, TensorView
from gatekeeper.intake.zips import Member, content, read_members

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE = 1 << 30  # bytes of one pickle program
# torch._export.serde.schema.ScalarType
_PT2_DTYPES = {
    1: "U8", 2: "I8", 3: "I16", 4: "I32", 5: "I64", 6: "F16", 7: "F32", 8: "F64", 12: "BOOL",
    13: "BF16",
}  # fmt: skip
_CONTIGUOUS = 7  # torch.serde's number of the strided layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One tensor: a strided window on a stretch of the file."""

    start: int  # byte in the file where its storage begins
    count: int  # elements of the storage
    dtype: str
    offset: int  # elements into the storage
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Contents:
    """What one container holds and what reading it would do; `broken` where it is malformed."""

    container: str  # torch_zip | torch_legacy | pt2 | torchscript | zip | pickle | other
    spans: dict[str, Span] = field(default_factory=dict)
    unsafe: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take(self, reading: pickle_judge.Reading, where: str = "") -> None:
        """Add what a pickle would do; `where` names the member it lies in."""
        suffix = f" in {where}" if where else ""
        self.unsafe += [u + suffix for u in reading.unsafe]
        self.classes += [c for c in reading.classes if c not in self.classes]
        if reading.broken:
            self.broken.append(f"pickle{suffix}: {reading.broken}")


def read_zip(data: memoryview) -> Contents:
    """Return the contents of a zip archive of any kind."""
    try:
        members = read_members(data)
    except Malformed as error:
        found = Contents(container="zip", broken=[str(error)])
        _salvage(data, found)
        return found
    names = {m.name: m for m in members}
    tops = {m.name.split("/")[0] for m in members}
    main = [m for m in members if m.name.count("/") == 1 and m.name.endswith("/data.pkl")]
    top = main[0].name.split("/")[0] if main else ""
    formats = [m for m in members if m.name.endswith("archive_format") and m.size_bytes < 16]
    if formats and content(data, formats[0]).strip() == b"pt2":
        found, skip = _pt2(data, names)
    elif len(main) == 1 and len(tops) == 1:
        found, skip = _torch_zip(data, names, top)
    else:
        found, skip = Contents(container="zip"), set()
    for member in members:
        if member.name not in skip:
            _check_member(data, member, found)
    return found


def read_legacy(data: memoryview, start: int = 0) -> Contents:
    """Return the contents of a stream of pickles as torch wrote it before 1.6."""
    found = Contents(container="torch_legacy")
    at, readings = start, []
    for _ in range(5):  # magic, protocol, system, the object, its storages' keys
        reading = pickle_judge.read(data, at)
        found.take(reading)
        readings.append(reading)
        at = reading.end
        if reading.broken:
            return found
    keys = readings[4].value
    views = pickle_judge.tensors_of(readings[3].value)
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        found.broken.append("the list of storages is no list of keys")
        return found
    try:
        starts, at = _legacy_storages(data, at, keys, readings[3].value)
    except Malformed as error:
        found.broken.append(str(error))
        return found
    if at != len(data):
        found.broken.append(f"{len(data) - at} bytes behind the last storage")
    for name, view in views.items():
        begin, count = starts.get(view.storage.key, (0, -1))
        _add_span(found, name, view, begin, count)
    return found


def looks_legacy(data: memoryview) -> bool:
    """Return whether `data` begins with the magic number of the older torch format."""
    head = pickle_judge.read(data[:64])
    return head.broken is None and head.value == LEGACY_MAGIC


def _torch_zip(
    data: memoryview, names: Mapping[str, Member], top: str
) -> tuple[Contents, set[str]]:
    code = any(n.startswith(f"{top}/code/") or n == f"{top}/constants.pkl" for n in names)
    found = Contents(container="torchscript" if code else "torch_zip")
    if code:
        found.unsafe.append("TorchScript program (its code runs when it is loaded)")
    order = names.get(f"{top}/byteorder")
    if order and content(data, order, 16).strip() != b"little":
        found.broken.append("its numbers are not little-endian")
    program = names[f"{top}/data.pkl"]
    reading = pickle_judge.read(content(data, program, MAX_PICKLE))
    found.take(reading)
    if not reading.broken and reading.end != program.size_bytes:
        found.broken.append(f"{program.size_bytes - reading.end} bytes behind the pickle's end")
    used = {program.name}
    for name, view in pickle_judge.tensors_of(reading.value).items():
        member = names.get(f"{top}/data/{view.storage.key}")
        if member is None or member.deflated:
            found.broken.append(f"{name}: its storage is missing or compressed")
            continue
        used.add(member.name)
        count = member.size_bytes // WIDTHS[view.storage.dtype]
        _add_span(found, name, view, member.start, count)
    # torch reads every data/N as raw numbers, also those of an optimizer that we leave alone
    used |= {n for n in names if n.startswith(f"{top}/data/") and n[len(top) + 6 :].isdigit()}
    return found, used


def _pt2(data: memoryview, names: Mapping[str, Member]) -> tuple[Contents, set[str]]:
    found = Contents(container="pt2")
    used: set[str] = set()
    configs = [n for n in names if n.endswith("_weights_config.json")]
    for config_name in configs:
        folder = config_name.rsplit("/", 1)[0]
        try:
            config = json.loads(content(data, names[config_name], 64 << 20))["config"]
            for name, said in config.items():
                member = names[f"{folder}/{said['path_name']}"]
                if said.get("use_pickle"):
                    continue  # checked as any other member
                used.add(member.name)
                found.spans[name] = _pt2_span(said["tensor_meta"], member)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            found.broken.append(f"{config_name}: not what torch.export writes ({error!r})")
    custom = [n for n in names if "/custom_objs" in n or "/data/aotinductor/" in n]
    for name in custom:
        found.unsafe.append(f"torch.export custom object or compiled code {name}")
    return found, used


def _pt2_span(meta: Mapping[str, Any], member: Member) -> Span:
    dtype = _PT2_DTYPES[meta["dtype"]]
    shape = tuple(int(s["as_int"]) for s in meta["sizes"])
    stride = tuple(int(s["as_int"]) for s in meta["strides"])
    offset, count = int(meta["storage_offset"]["as_int"]), member.size_bytes // WIDTHS[dtype]
    if member.deflated or meta.get("layout", _CONTIGUOUS) != _CONTIGUOUS:
        raise ValueError(f"{member.name} is compressed or not strided")
    _require_inside(shape, stride, offset, count)
    return Span(
        start=member.start, count=count, dtype=dtype, offset=offset, shape=shape, stride=stride
    )


def _legacy_storages(
    data: memoryview, at: int, keys: list[str], value: object
) -> tuple[dict[str, tuple[int, int]], int]:
    """Return ({key: (start, elements)}, end): each storage is 8 bytes of length, then numbers."""
    widths = pickle_judge.storage_widths(value)
    starts: dict[str, tuple[int, int]] = {}
    for key in keys:
        if at + 8 > len(data):
            raise Malformed("the file ends before its storages do")
        count = int.from_bytes(data[at : at + 8], "little")
        width = widths.get(key)
        if width is None or key in starts:
            raise Malformed(f"storage {key} is unknown or stands twice")
        if at + 8 + count * width > len(data):
            raise Malformed("the file ends before its storages do")
        starts[key] = (at + 8, count)
        at += 8 + count * width
    return starts, at


def _add_span(found: Contents, name: str, view: TensorView, start: int, count: int) -> None:
    offset = view.storage.offset + view.offset
    try:
        _require_inside(view.shape, view.stride, offset, count)
    except ValueError as error:
        found.broken.append(f"{name}: {error}")
        return
    found.spans[name] = Span(
        start=start,
        count=count,
        dtype=view.storage.dtype,
        offset=offset,
        shape=view.shape,
        stride=view.stride,
    )


def _require_inside(
    shape: tuple[int, ...], stride: tuple[int, ...], offset: int, count: int
) -> None:
    if len(shape) != len(stride) or min((*shape, *stride, offset, count), default=0) < 0:
        raise ValueError("an odd shape or stride")
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if 0 not in shape and last >= count:
        raise ValueError("it reaches beyond its storage")


def _check_member(data: memoryview, member: Member, found: Contents) -> None:
    """Look for a pickle, or an archive, in a member that nobody would expect one in."""
    try:
        inner = content(data, member, MAX_PICKLE)
    except Malformed as error:
        found.broken.append(str(error))
        return
    if inner.startswith(b"PK\x03\x04"):
        nested = read_zip(memoryview(inner))
        found.unsafe += [f"{u} in {member.name}" for u in nested.unsafe]
        found.broken += [f"{member.name}: {b}" for b in nested.broken]
        return
    reading = pickle_judge.read(inner)
    if is_pickle(inner, reading):
        found.take(reading, member.name)
        if not reading.broken and reading.end != len(inner):
            found.broken.append(f"{member.name}: bytes behind the pickle's end")


def is_pickle(data: bytes | memoryview, reading: pickle_judge.Reading) -> bool:
    """Return whether bytes that need be no pickle are one all the same.

    They are when they were read to the end and name something, or call something on the way: no
    text or table of numbers does either by chance. Protocols 0 and 1 have no magic number.
    """
    if reading.calls:
        return True
    if reading.broken:
        return bool(reading.unsafe) and bytes(data[:1]) == b"\x80" and bytes(data[1:2]) <= b"\x05"
    return reading.globals_seen > 0 or bytes(data[:1]) == b"\x80"


def _salvage(data: memoryview, found: Contents) -> None:
    """Name what a broken archive would call where it can still be told: its stored pickles."""
    at, tries = 0, 0
    raw = bytes(data[: min(len(data), 256 << 20)])
    while tries < 64 and (at := raw.find(b"PK\x03\x04", at)) >= 0:
        tries += 1
        start = at + 30 + int.from_bytes(raw[at + 26 : at + 28], "little")
        start += int.from_bytes(raw[at + 28 : at + 30], "little")
        reading = pickle_judge.read(data, min(start, len(data)))
        found.unsafe += [u for u in reading.unsafe if u not in found.unsafe]
        at += 4
