"""What is in this file, by its bytes and not its name? Runs in a child process with limits.

Every file of a model's tree is looked at, also those that the model does not use: a payload waits
in the file that somebody else's program opens. Imports no torch and calls nothing it reads.
"""

import bz2
import gzip
import io
import lzma
import mmap
import tarfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gatekeeper.intake import pickle_judge, safetensors_header, torch_files
from gatekeeper.intake.pickle_values import Malformed
from gatekeeper.intake.torch_files import Contents

_TEXT = ".txt .md .json .jsonl .yaml .yml .csv .tsv .py .toml .cfg .ini .html .xml .jinja .rst"
TEXT = frozenset(_TEXT.split())
PICKLED = frozenset((".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".pt2"))
MAX_GUESS = 64 << 20  # bytes of a file without any magic that are tried as a pickle
MAX_UNPACKED = 256 << 20
_PACKERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


def inspect(path: Path) -> dict[str, Any]:
    """Return the contents of the file at `path` as plain JSON.

    Keys: container, spans, unsafe, classes, broken, notes (see `torch_files.Contents`); for
    safetensors also metadata.
    """
    if path.stat().st_size == 0:
        broken = ["the file is empty"] if path.suffix in (*PICKLED, ".safetensors", ".bin") else []
        return asdict(Contents(container="other", broken=broken))
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        data = memoryview(mapped)
        try:
            return _by_content(path, data)
        finally:
            data.release()


def _by_content(path: Path, data: memoryview) -> dict[str, Any]:
    suffix = path.suffix.lower()
    start = bytes(data[:512])
    if suffix == ".safetensors" or safetensors_header.looks_like(start, len(data)):
        return _safetensors(data)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return asdict(torch_files.read_zip(data))
    if _hidden_archive(data):
        broken = ["an archive behind other bytes: programs disagree on what this file is"]
        return asdict(Contents(container="zip", broken=broken))
    if start.startswith(b"\x93NUMPY"):
        return asdict(_numpy(data))
    if start[257:262] == b"ustar":
        return asdict(_tar(path, suffix))
    for magic, unpack in _PACKERS.items():
        if start.startswith(magic):
            return asdict(_packed(path, unpack))
    return asdict(_pickle(data, suffix))


def _safetensors(data: memoryview) -> dict[str, Any]:
    found = Contents(container="safetensors")
    try:
        length = 8 + int.from_bytes(bytes(data[:8]), "little")
        capped = min(length, len(data), 8 + safetensors_header.MAX_HEADER)
        header = safetensors_header.read_header(data[:capped], len(data))
    except Malformed as error:
        found.broken.append(str(error))
        return asdict(found)
    # spans are not needed: the format itself says where its numbers lie
    tensors = {e.name: [e.dtype, list(e.shape), e.start, e.stop] for e in header.entries}
    return {**asdict(found), "tensors": tensors, "metadata": header.metadata}


def _pickle(data: memoryview, suffix: str) -> Contents:
    """Read what may be a pickle: by its magic, its name, or because it reads as one."""
    claims = bytes(data[:1]) == b"\x80" and bytes(data[1:2]) <= b"\x05"
    if claims and torch_files.looks_legacy(data):
        return torch_files.read_legacy(data)
    if not claims and len(data) > MAX_GUESS:
        return Contents(container="other")
    reading = pickle_judge.read(data, torch_storages=False)
    whole = reading.broken is None and reading.end == len(data)
    sure = claims or suffix in PICKLED
    if not sure and not torch_files.is_pickle(data, reading):
        return Contents(container="other")
    if suffix in TEXT and not whole and not claims:
        return Contents(container="other")  # words that begin like opcodes
    found = Contents(container="pickle")
    found.take(reading)
    if not reading.broken and not whole:
        found.broken.append(f"{len(data) - reading.end} bytes behind the pickle's end")
    return found


def _hidden_archive(data: memoryview) -> bool:
    """Return whether a zip's end record ends this file, which did not begin as one."""
    tail = bytes(data[-(22 + 0xFFFF) :])
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        return False
    comment = int.from_bytes(tail[at + 20 : at + 22], "little")
    size = int.from_bytes(tail[at + 12 : at + 16], "little")
    return at + 22 + comment == len(tail) and size <= len(data)


def _numpy(data: memoryview) -> Contents:
    found = Contents(container="numpy")
    wide = data[6] >= 2
    length = int.from_bytes(data[8 : 12 if wide else 10], "little")
    start = (12 if wide else 10) + length
    header = bytes(data[:start])
    if b"'O'" in header or b"|O" in header or b"'object'" in header:
        found.take(pickle_judge.read(data, min(start, len(data)), torch_storages=False))
        found.unsafe = found.unsafe or ["numpy object array (a pickle)"]
    return found


def _tar(path: Path, suffix: str) -> Contents:
    found = Contents(container="tar")
    if suffix in PICKLED or suffix == ".bin":
        found.broken.append("a tar archive under a checkpoint's name")
    try:
        with tarfile.open(path, "r:") as archive:
            for number, member in enumerate(archive):
                if number > 10_000:
                    found.broken.append("more than 10,000 members")
                    break
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is not None and member.size <= MAX_UNPACKED:
                    _inner(stream.read(), member.name, found)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        found.broken.append(f"a broken tar archive: {error}")
    return found


def _packed(path: Path, unpack: Any) -> Contents:
    found = Contents(container="packed")
    try:
        with unpack(path, "rb") as stream:
            inner = stream.read(MAX_UNPACKED + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        found.broken.append(f"broken packed bytes: {error}")
        return found
    if len(inner) > MAX_UNPACKED:
        found.broken.append(f"more than {MAX_UNPACKED} bytes when unpacked")
    _inner(inner[:MAX_UNPACKED], "packed bytes", found)
    return found


def _inner(inner: bytes, name: str, found: Contents) -> None:
    if inner.startswith(b"PK\x03\x04"):
        nested = torch_files.read_zip(memoryview(inner))
        found.unsafe += [f"{u} in {name}" for u in nested.unsafe]
        found.broken += [f"{name}: {b}" for b in nested.broken]
        return
    if io.BytesIO(inner).read(6) == b"\x93NUMPY":
        found.unsafe += [f"{u} in {name}" for u in _numpy(memoryview(inner)).unsafe]
        return
    reading = pickle_judge.read(inner)
    if torch_files.is_pickle(inner, reading):
        found.take(reading, name)
