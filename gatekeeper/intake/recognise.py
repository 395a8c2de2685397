"""Does this artifact tree hold a CLIP? Told from names and a few kilobytes, without torch.

The gate asks this of every model version, most of which are no CLIP. `other` may be promoted
unscanned where the policy says so (`unrecognised: allow`), and whoever hides a CLIP can make a tree
say anything of itself. So the flavor in MLmodel is not believed: `other` is a tree in which no file
can hold a CLIP by its own bytes, `unknown` every tree in which one could, and that is scanned.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath

from gatekeeper.intake.may_hold import may_hold

SMALL_FILES = ("open_clip_config.json", "config.json")
MAX_SMALL = 1 << 20  # bytes of a small file that are looked at
MAX_HEADER = 16 << 20  # bytes of a safetensors header
_TYPES = "clip siglip siglip2 chinese_clip altclip clipseg align xclip blip metaclip_2"
_CLIP_TYPES = frozenset(_TYPES.split())
_CLASSES = ("CLIP", "Siglip", "SigLIP", "CoCa")
_TEXT_NAMES = ("token_embedding.weight", "text_projection", "text_model.embeddings")
_IMAGE_NAMES = ("visual.", "vision_model.", "vision_tower.")
_TOWER_NAMES = ("resblocks.", "attnpool.", "trunk.", "class_embedding")  # an exported image tower

ReadRange = Callable[[str, int, int], bytes]  # (name, start, length) -> at most length bytes


class Kind(StrEnum):
    """What a tree holds."""

    CLIP = "clip"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """The answer and one sentence saying what it rests on."""

    kind: Kind
    why: str


def recognise(names: Sequence[str], read_range: ReadRange) -> Recognised:
    """Return what the tree of files `names` (POSIX, relative) holds.

    Args:
        names: Every file of the tree.
        read_range: Reads a stretch of one of them: small files, headers, and the whole of a pickle
            or archive that may be a classic model's.
    """
    small = [n for n in names if PurePosixPath(n).name in SMALL_FILES]
    configs = {n: _json(read_range(n, 0, MAX_SMALL)) for n in small}
    for name, content in configs.items():
        said = _config_says(PurePosixPath(name).name, content)
        if said is not None:
            return Recognised(kind=Kind.CLIP, why=f"{name} {said}")
    tensors = {n: _header(n, read_range) for n in names if _is_safetensors(n, read_range)}
    for name, found in tensors.items():
        said = _header_says(found)
        if said is not None:
            return Recognised(kind=Kind.CLIP, why=f"{name} {said}")
    return _rest(names, configs, tensors, read_range)


def recognise_folder(root: Path) -> Recognised:
    """Return what the folder or file at `root` holds."""
    if root.is_file():
        return recognise([root.name], lambda _, start, length: _read(root, start, length))
    return recognise(_names(root), lambda name, start, length: _read(root / name, start, length))


def holds_clip(root: Path) -> bool:
    """Return whether the tree at `root` must be scanned as a CLIP: it is one, or may be.

    Where names do not tell, the weights' own names do, read by the child process that scans use; a
    file that would run code or is malformed counts as a CLIP, so that the scan says so.
    """
    told = recognise_folder(root).kind
    if told is not Kind.UNKNOWN:
        return told is Kind.CLIP
    from gatekeeper.intake.child import inspect_tree

    names = [root.name] if root.is_file() else _names(root)
    for report in inspect_tree(root, names).values():
        tensors = [*report.get("tensors", {}), *report.get("spans", {})]
        alike = any(part in name for name in tensors for part in (*_IMAGE_NAMES, *_TOWER_NAMES))
        if alike or report["unsafe"] or report["broken"]:
            return True
    return False


def _names(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def _rest(
    names: Sequence[str],
    configs: Mapping[str, dict[str, object]],
    tensors: Mapping[str, list[str]],
    read_range: ReadRange,
) -> Recognised:
    if not names:
        return Recognised(kind=Kind.UNKNOWN, why="the tree is empty")
    types = {
        PurePosixPath(name).parent: str(content["model_type"])
        for name, content in configs.items()
        if content.get("model_type")
    }
    for name in names:
        if name in tensors:
            told = types.get(PurePosixPath(name).parent)
            why = _foreign(tensors[name], told)
        else:
            why = may_hold(name, partial(read_range, name))
        if why is not None:
            return Recognised(kind=Kind.UNKNOWN, why=f"{name} {why}")
    if types:
        return Recognised(
            kind=Kind.OTHER, why=f"config.json describes a {next(iter(types.values()))}"
        )
    return Recognised(kind=Kind.OTHER, why="no file of it can hold a network's weights")


def _foreign(tensors: Sequence[str], told: str | None) -> str | None:
    """Return why a safetensors file may hold a CLIP, None where it holds what its config says."""
    if not tensors:
        return "names no tensors, or cannot be read"
    alike = next((n for n in tensors for part in (*_IMAGE_NAMES, *_TOWER_NAMES) if part in n), None)
    if alike is not None:
        return f"holds '{alike}', named as in an image tower"
    return None if told else "may hold any network's weights"


def _config_says(name: str, content: Mapping[str, object]) -> str | None:
    if name == "open_clip_config.json":
        return "is an open_clip configuration"
    kind = str(content.get("model_type", ""))
    if kind in _CLIP_TYPES:
        return f"describes a {kind}"
    named = content.get("architectures")
    if isinstance(named, list) and any(str(a).startswith(_CLASSES) for a in named):
        return f"describes a {named[0]}"
    if "model_cfg" in content or ("vision_cfg" in content and "text_cfg" in content):
        return "is an open_clip configuration"
    return None


def _header_says(tensors: Sequence[str]) -> str | None:
    image = any(part in name for name in tensors for part in _IMAGE_NAMES)
    text = any(part in name for name in tensors for part in _TEXT_NAMES)
    if (image and text) or (image and any(n.endswith("logit_scale") for n in tensors)):
        return "holds an image tower and a text tower"
    return None


def _is_safetensors(name: str, read_range: ReadRange) -> bool:
    return name.lower().endswith(".safetensors") or read_range(name, 8, 2) in (b'{"', b"{}")


def _header(name: str, read_range: ReadRange) -> list[str]:
    length = int.from_bytes(read_range(name, 0, 8)[:8], "little")
    if not 2 <= length <= MAX_HEADER:
        return []
    return [key for key in _json(read_range(name, 8, length)) if key != "__metadata__"]


def _json(raw: bytes) -> dict[str, object]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(length)
