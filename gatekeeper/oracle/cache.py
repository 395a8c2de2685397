"""What has the oracle already said of this image?"""

import contextlib
import hashlib
import io
import json
import logging
import os
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gatekeeper.oracle.base import Region

logger = logging.getLogger(__name__)

MEMORY_ENTRIES = 4096  # answers kept in memory, newest first
CHECK_EVERY = 64  # writes between two looks at the size on disk
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class OracleCache:
    """Answers by key, in memory and, where `root` is given, on disk.

    A file is a zip of plain arrays (npz; nothing in it is ever unpickled) beside a checksum. A
    file that is damaged, truncated or of another key counts as absent and is written anew. The
    oldest files go once all of them pass `limit_bytes`.
    """

    root: Path | None = None
    limit_bytes: int = 2 * 1024**3
    _memory: "OrderedDict[str, Arrays]" = field(default_factory=OrderedDict, repr=False)
    _written: list[int] = field(default_factory=lambda: [0], repr=False)

    def get(self, *key: str) -> Arrays | None:
        """Return the arrays kept under `key`, None where there are none that can be trusted."""
        name = _name(key)
        if name in self._memory:
            self._memory.move_to_end(name)
            return self._memory[name]
        arrays = self._read(name)
        if arrays is not None:
            self._remember(name, arrays)
        return arrays

    def put(self, arrays: Arrays, *key: str) -> None:
        """Keep `arrays` under `key`. A full or read-only disk is logged, never an error."""
        name = _name(key)
        self._remember(name, arrays)
        if self.root is None:
            return
        try:
            self._write(name, arrays)
            if self._written[0] % CHECK_EVERY == 0:
                self.shrink()
            self._written[0] += 1
        except OSError as error:
            logger.warning("oracle cache %s cannot be written: %s", self.root, error)

    def _remember(self, name: str, arrays: Arrays) -> None:
        self._memory[name] = arrays
        while len(self._memory) > MEMORY_ENTRIES:
            self._memory.popitem(last=False)

    def _path(self, name: str) -> Path | None:
        return None if self.root is None else self.root / "oracle" / name[:2] / f"{name}.npz"

    def _read(self, name: str) -> Arrays | None:
        path = self._path(name)
        if path is None:
            return None
        try:
            content = path.read_bytes()
            digest, body = content[:32], content[32:]
            if hashlib.sha256(name.encode() + body).digest() != digest:
                raise ValueError("checksum differs")
            with np.load(io.BytesIO(body), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            os.utime(path)  # the oldest use goes first
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            logger.warning("oracle cache entry %s is damaged (%s): asked anew", path, error)
            return None
        return arrays

    def _write(self, name: str, arrays: Arrays) -> None:
        path = self._path(name)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        body = buffer.getvalue()
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(name.encode() + body).digest() + body)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def shrink(self) -> None:
        """Delete what was used longest ago until all of it fits `limit_bytes`.

        Raises:
            OSError: The folder cannot be changed.
        """
        files = list(self._files())
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda item: (item[0].st_mtime, str(item[1]))):
            if total <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size

    def _files(self) -> Iterator[tuple[os.stat_result, Path]]:
        for path in () if self.root is None else (self.root / "oracle").glob("*/*.npz"):
            with contextlib.suppress(FileNotFoundError):  # another process may delete as well
                yield path.stat(), path


def image_digest(image: np.ndarray) -> str:
    """Return "sha256:…" over shape and bytes of `image` ([H, W, 3] uint8)."""
    total = hashlib.sha256(f"{image.shape}\0".encode())
    total.update(np.ascontiguousarray(image).tobytes())
    return f"sha256:{total.hexdigest()}"


def pack_regions(regions: tuple[Region, ...]) -> Arrays:
    """Return regions as arrays, masks run-length encoded (lengths of alternating runs, 0 first)."""
    runs = [encode_mask(region.mask) for region in regions]
    shape = regions[0].mask.shape if regions else (0, 0)
    return {
        "shape": np.asarray(shape, dtype=np.int32),
        "runs": np.concatenate(runs) if runs else np.zeros(0, dtype=np.uint32),
        "counts": np.asarray([len(run) for run in runs], dtype=np.int32),
        "boxes": np.asarray([r.box for r in regions], dtype=np.int32).reshape(-1, 4),
        "scores": np.asarray([r.score for r in regions], dtype=np.float64),
        "kinds": np.frombuffer(json.dumps([r.kind for r in regions]).encode(), dtype=np.uint8),
    }


def unpack_regions(arrays: Arrays) -> tuple[Region, ...]:
    """Return what `pack_regions` was given.

    Raises:
        ValueError: The arrays contradict one another.
        KeyError: One is missing.
    """
    height, width = (int(side) for side in arrays["shape"])
    kinds = json.loads(arrays["kinds"].tobytes())
    ends = np.cumsum(arrays["counts"])
    if not len(kinds) == len(ends) == len(arrays["boxes"]) == len(arrays["scores"]):
        raise ValueError("regions of unequal number")
    regions = []
    for index, end in enumerate(ends):
        runs = arrays["runs"][end - arrays["counts"][index] : end]
        left, top, right, bottom = (int(side) for side in arrays["boxes"][index])
        regions.append(
            Region(
                mask=decode_mask(runs, height, width),
                box=(left, top, right, bottom),
                score=float(arrays["scores"][index]),
                kind=str(kinds[index]),
            )
        )
    return tuple(regions)


def encode_mask(mask: np.ndarray) -> np.ndarray:
    """Return the run lengths [K] uint32 of `mask` in row order, beginning with the zeros."""
    flat = mask.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0], edges, [flat.size]])
    runs = np.diff(bounds)
    if flat.size and flat[0]:
        runs = np.concatenate([[0], runs])
    return runs.astype(np.uint32)


def decode_mask(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the mask [height, width] bool of run lengths.

    Raises:
        ValueError: The runs do not add up to height times width.
    """
    if int(runs.sum()) != height * width:
        raise ValueError(f"runs add up to {int(runs.sum())}, not to {height}x{width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)


def _name(key: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(key).encode()).hexdigest()
