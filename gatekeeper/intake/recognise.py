"""Does this artifact tree hold a CLIP? Told from names and a few kilobytes, without torch.

The gate asks this of every model version, most of which are no CLIP. `clip` and `other` are
statements about what the tree says of itself; whoever hides a CLIP can make it say something else,
so `unknown` is the answer wherever weights are present and nothing tells what they are, and the
policy (`unrecognised`) decides what becomes of those.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

import yaml

SMALL_FILES = ("MLmodel", "open_clip_config.json", "config.json")
MAX_SMALL = 1 << 20  # bytes of a small file that are looked at
MAX_HEADER = 16 << 20  # bytes of a safetensors header
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pt2", ".pkl", ".pickle", ".joblib")
_TYPES = "clip siglip siglip2 chinese_clip altclip clipseg align xclip blip metaclip_2"
_CLIP_TYPES = frozenset(_TYPES.split())
_CLASSES = ("CLIP", "Siglip", "SigLIP", "CoCa")
# Flavors whose files are no torch weights: nothing in them can be a CLIP's tower.
_FLAVORS = """sklearn xgboost lightgbm catboost prophet statsmodels spacy fastai h2o pmdarima paddle
    openai langchain llama_index dspy diviner johnsnowlabs spark promptflow crewai"""
_OTHER_FLAVORS = frozenset(_FLAVORS.split())
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
        read_range: Reads a stretch of one of them; called for small files and safetensors headers.
    """
    small = {n: PurePosixPath(n).name for n in names if PurePosixPath(n).name in SMALL_FILES}
    configs = {
        n: _json(read_range(n, 0, MAX_SMALL)) for n, last in small.items() if last != "MLmodel"
    }
    for name, content in configs.items():
        said = _config_says(PurePosixPath(name).name, content)
        if said is not None:
            return Recognised(kind=Kind.CLIP, why=f"{name} {said}")
    for name in names:
        if name.endswith(".safetensors"):
            found = _header_says(_header(name, read_range))
            if found is not None:
                return Recognised(kind=Kind.CLIP, why=f"{name} {found}")
    return _rest(names, configs, _flavors(names, read_range))


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
    names: Sequence[str], configs: Mapping[str, dict[str, object]], flavors: frozenset[str]
) -> Recognised:
    weights = [n for n in names if n.lower().endswith(_WEIGHTS)]
    types = [str(c["model_type"]) for c in configs.values() if c.get("model_type")]
    if flavors & _OTHER_FLAVORS and not flavors & {"pytorch", "transformers"}:
        kind = ", ".join(sorted(flavors & _OTHER_FLAVORS))
        return Recognised(kind=Kind.OTHER, why=f"MLmodel names the flavor {kind}")
    loose = [n for n in weights if not n.endswith(".safetensors")]
    if types and not loose:
        return Recognised(kind=Kind.OTHER, why=f"config.json describes a {types[0]}")
    if loose:
        return Recognised(kind=Kind.UNKNOWN, why=f"{loose[0]} may hold any network's weights")
    if weights:
        return Recognised(
            kind=Kind.OTHER, why=f"the tensors of {weights[0]} are not named as a CLIP's"
        )
    if not names:
        return Recognised(kind=Kind.UNKNOWN, why="the tree is empty")
    return Recognised(kind=Kind.OTHER, why="no file of it holds a network's weights")


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


def _header(name: str, read_range: ReadRange) -> list[str]:
    length = int.from_bytes(read_range(name, 0, 8)[:8], "little")
    if not 2 <= length <= MAX_HEADER:
        return []
    return [key for key in _json(read_range(name, 8, length)) if key != "__metadata__"]


def _flavors(names: Sequence[str], read_range: ReadRange) -> frozenset[str]:
    if "MLmodel" not in names:
        return frozenset()
    try:
        content = yaml.safe_load(read_range("MLmodel", 0, MAX_SMALL).decode("utf-8", "replace"))
    except (yaml.YAMLError, ValueError, RecursionError):
        return frozenset()
    flavors = content.get("flavors") if isinstance(content, dict) else None
    return frozenset(str(f) for f in flavors) if isinstance(flavors, dict) else frozenset()


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
