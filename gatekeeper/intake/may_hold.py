"""Could this file hold a network's weights? A look at its bytes, nothing run and no torch.

For the gate: what cannot hold a CLIP may be promoted unscanned where the policy says so. A name
proves nothing (whoever hides a CLIP calls it `model.pkl` of flavor sklearn), so the bytes are
asked, and whatever they do not answer for is a yes.
"""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import PurePosixPath

from gatekeeper.intake.pickle_machine import Machine
from gatekeeper.intake.pickle_values import Malformed

Read = Callable[[int, int], bytes]  # (start, length) -> at most length bytes of the file

MAX_READ = 256 << 20  # bytes of a pickle or archive that are looked at; a longer one may hold any
MAX_PLAIN = 64 << 10  # bytes: plain values below this are fewer than any CLIP has weights
_SUFFIXES = """.pt .pth .bin .ckpt .pt2 .pkl .pickle .joblib .onnx .h5 .keras .hdf5 .pb .tflite
    .gguf .ggml .npz .msgpack .mlmodel .engine .mar .torchscript .ts"""
_WEIGHT_SUFFIXES = frozenset(_SUFFIXES.split())
_PICKLED = (".pkl", ".pickle")
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_LEGACY_TORCH = b"L119547037146038801333356L"  # its magic number in pickle protocol 0
_MAGICS = {b"\x89HDF": "HDF5", b"GGUF": "GGUF", b"\x04\x22\x4d\x18": "an LZ4 frame"}
# Roots of classic models. Their parts that run code or files are no part of a fitted model.
_CLASSIC = frozenset({"sklearn", "scipy", "numpy"})
_NEVER = frozenset({"testing", "f2py", "distutils", "tests", "ctypeslib"})
_PLAIN = """builtins.object builtins.list builtins.dict builtins.tuple builtins.set
    builtins.frozenset builtins.int builtins.float builtins.str builtins.bool builtins.bytes
    builtins.bytearray builtins.complex builtins.slice builtins.range collections.OrderedDict
    collections.defaultdict copyreg._reconstructor copyreg.__newobj__ _codecs.encode"""
_PLAIN_NAMES = frozenset(_PLAIN.split())
_TOWERS = (b"visual.", b"vision_model.", b"vision_tower.", b"resblocks.", b"attnpool.", b"trunk.")


def may_hold(name: str, read: Read) -> str | None:
    """Return why the file may hold a network's weights, None where it cannot.

    Args:
        name: POSIX path, for its suffix alone.
        read: Reads a stretch of it. safetensors files are not for here: their header tells.
    """
    suffix = PurePosixPath(name).suffix.lower()
    head = read(0, 512)
    if head.startswith(b"PK\x03\x04"):
        return _archive(read(0, MAX_READ + 1))
    if head.startswith(_PACKED) or head[257:262] == b"ustar":
        return "is packed, and may hold any network's weights"
    for magic, what in _MAGICS.items():
        if head.startswith(magic):
            return f"is {what}, which may hold any network's weights"
    if head.startswith(_LEGACY_TORCH):
        return "is a torch file"
    claims = head[:1] == b"\x80" and head[1:2] <= b"\x05"
    if claims or suffix in _PICKLED:
        return _pickle(read(0, MAX_READ + 1))
    if suffix in _WEIGHT_SUFFIXES:
        return "may hold any network's weights"
    return None


def _archive(data: bytes) -> str | None:
    """A zip is what its members are; skops' also says which classes it makes."""
    if len(data) > MAX_READ:
        return "is a large archive, which may hold any network's weights"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_READ:
                return "unpacks to more than is looked at"
            skops = "schema.json" in archive.namelist()
            for member in archive.infolist():
                why = _member(member.filename, archive.read(member), skops=skops)
                if why is not None:
                    return f"{why} ({member.filename})"
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, EOFError):
        return "is an archive that cannot be read"
    return None


def _member(name: str, content: bytes, *, skops: bool) -> str | None:
    if content.startswith((b"PK\x03\x04", *_PACKED)) or name.endswith((".safetensors", ".pt2")):
        return "is an archive within an archive"
    if skops and name == "schema.json":
        return _skops(content)
    if skops and name.endswith((".npy", ".npz")):  # its arrays; the schema says what of
        return None
    if content.startswith(b"\x93NUMPY"):
        return "holds arrays, which may be any network's weights"
    return may_hold(name, lambda start, length: content[start : start + length])


def _skops(schema: bytes) -> str | None:
    try:
        classes = set(_classes(json.loads(schema)))
    except (ValueError, RecursionError):
        return "is a skops file that cannot be read"
    return _by_names(classes) or (_tower_in(schema))


def _classes(node: object) -> "list[tuple[str, str]]":
    """Return (module, name) of everything a skops schema makes."""
    found: list[tuple[str, str]] = []
    waiting = [node]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "__module__" in value:
                found.append((str(value["__module__"]), str(value.get("__class__", ""))))
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return found


def _pickle(data: bytes) -> str | None:
    if len(data) > MAX_READ:
        return "is a large pickle, which may hold any network's weights"
    machine = Machine(data, torch_storages=False)
    try:
        machine.run()
    except (Malformed, RecursionError, MemoryError, OverflowError, TypeError, ValueError):
        return "is a pickle that cannot be read, and may hold any network's weights"
    if machine.at != len(data):
        return "holds more than its pickle"
    names = {(found.module, found.name) for found in machine.globals_}
    if not names:
        return None if len(data) <= MAX_PLAIN else "may hold any network's weights"
    return _by_names(names) or _tower_in(data)


def _by_names(names: set[tuple[str, str]]) -> str | None:
    """Return why the objects of these names may be a network; a fitted classic model is none."""
    for module, name in sorted(names):
        if not _is_classic(module) and f"{module}.{name}" not in _PLAIN_NAMES:
            return f"mentions {module}.{name}, which may be any network"
    if not any(module.split(".")[0] in ("sklearn", "scipy") for module, _ in names):
        return "holds arrays, which may be any network's weights"  # a state dict in numpy
    return None


def _is_classic(module: str) -> bool:
    parts = module.split(".")
    return parts[0] in _CLASSIC and not _NEVER.intersection(parts)


def _tower_in(data: bytes) -> str | None:
    for part in _TOWERS:
        if part in data:
            return f"names '{part.decode()}', as image towers do"
    return None
