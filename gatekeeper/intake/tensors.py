"""Tensors straight from a file's bytes, by a table of spans; the file is mapped, not copied."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatekeeper.errors import UnsafeFormatError
from gatekeeper.intake.child import file_of

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one tensor lies: file, byte, dtype and the window on its storage."""

    file: str  # relative to the model's root
    start: int  # byte
    count: int  # elements of the storage
    dtype: str
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether the window is the storage itself, in its own order."""
        return self.offset == 0 and self.stride == contiguous(self.shape)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a tensor of `shape` without gaps."""
    stride, step = [], 1
    for side in reversed(shape):
        stride.append(step)
        step *= max(side, 1)
    return tuple(reversed(stride))


def places_of(name: str, report: Mapping[str, Any]) -> dict[str, Place]:
    """Return where each tensor of the file `name` lies, from what the reader process said."""
    found: dict[str, Place] = {}
    for tensor, (dtype, shape, start, _stop) in report.get("tensors", {}).items():
        size = tuple(shape)
        count = 1
        for side in size:
            count *= side
        found[tensor] = Place(
            file=name,
            start=start,
            count=count,
            dtype=dtype,
            offset=0,
            shape=size,
            stride=contiguous(size),
        )
    for tensor, span in report.get("spans", {}).items():
        found[tensor] = Place(
            file=name,
            start=span["start"],
            count=span["count"],
            dtype=span["dtype"],
            offset=span["offset"],
            shape=tuple(span["shape"]),
            stride=tuple(span["stride"]),
        )
    return found


def read(root: Path, places: Mapping[str, Place]) -> dict[str, Tensor]:
    """Return the tensors at `places`, backed by private maps of their files.

    Raises:
        UnsafeFormatError: A place lies beyond its file (which has changed since it was read), or
            its numbers are of a kind that torch does not have.
    """
    maps: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    for name, place in places.items():
        if place.file not in maps:
            path = file_of(root, place.file)
            size = path.stat().st_size
            # shared=False: a write would touch our copy of the page, never the file
            maps[place.file] = torch.from_file(str(path), size=size, dtype=torch.uint8)
        out[name] = _window(maps[place.file], place, name)
    return out


def _window(raw: Tensor, place: Place, name: str) -> Tensor:
    dtype = DTYPES.get(place.dtype)
    if dtype is None:
        raise UnsafeFormatError(
            f"{place.file}: {name} holds {place.dtype} numbers, which no CLIP tower is made of",
            hint="save the model in float32, float16 or bfloat16",
        )
    stop = place.start + place.count * dtype.itemsize
    if stop > len(raw):
        raise UnsafeFormatError(
            f"{place.file}: {name} lies beyond the end of the file",
            hint="the file changed while it was read; scan it again",
        )
    storage = raw[place.start : stop]
    if dtype is torch.bool:
        storage = storage != 0  # any other byte is no valid bool in memory
    elif place.start % dtype.itemsize:
        storage = storage.clone().view(dtype)
    else:
        storage = storage.view(dtype)
    return storage.as_strided(place.shape, place.stride, storage.storage_offset() + place.offset)
