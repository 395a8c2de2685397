"""Which of the MODEL forms is this tree, and where in it lies the CLIP?"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from gatekeeper.clip.adapters_tokenizers import read_json
from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake.child import file_of

OPEN_CLIP_CONFIG = "open_clip_config.json"
_HF_TYPES = ("clip", "siglip")
# In the order in which the libraries themselves look.
_OPEN_CLIP_ORDER = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_HF_ORDER = ("model.safetensors", "pytorch_model.bin")
MIN_TENSORS = 8  # a file with fewer is an optimizer's scalar or a prompt, not a tower
_MAX_TEXT = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the model lies in its tree; paths are relative, "" is the root."""

    form: str  # open_clip | transformers | pytorch | pyfunc | artifacts | checkpoint
    config: str | None  # open_clip_config.json or a transformers config.json
    weights: tuple[str, ...]  # one file, or the shards of one model; empty: none can be read
    others: tuple[str, ...] = ()  # further files with weights that were not taken

    @property
    def folder(self) -> str:
        """The folder that the model's own files lie in."""
        where = self.config or (self.weights[0] if self.weights else "")
        parent = PurePosixPath(where).parent.as_posix()
        return "" if parent == "." else parent


def find(root: Path, reports: Mapping[str, Mapping[str, Any]]) -> Layout:
    """Return the layout of the tree at `root`; `reports` says what each file holds.

    Raises:
        UnsupportedModelError: There is no model in it, or there are several.
    """
    if root.is_file():
        own = tuple(reports) if _holds_weights(next(iter(reports.values()))) else ()
        return Layout(form="checkpoint", config=None, weights=own)
    form = _form(root, reports)
    configs = _configs(root, reports)
    weighty = [name for name, report in reports.items() if _holds_weights(report)]
    placed = {config: _weights_beside(root, config, weighty, reports) for config in configs}
    with_weights = {config: files for config, files in placed.items() if files}
    if len(with_weights) > 1:
        raise UnsupportedModelError(
            f"{root} holds {len(with_weights)} CLIPs: {', '.join(sorted(with_weights))}",
            hint="scan each on its own: name the folder of one",
        )
    if with_weights:
        config: str | None = next(iter(with_weights))
        files = with_weights[str(config)]
    else:
        config, files = (configs[0] if configs else None), _largest(weighty, reports)
    others = tuple(name for name in weighty if name not in files)
    return Layout(form=form, config=config, weights=files, others=others)


def _form(root: Path, names: Mapping[str, object]) -> str:
    flavors = mlflow_flavors(root)
    if "transformers" in flavors:
        return "transformers"
    if "pytorch" in flavors:
        return "pytorch"
    if "python_function" in flavors:
        return "pyfunc"
    if not flavors and OPEN_CLIP_CONFIG in names:
        return "open_clip"
    if not flavors and read_json(root / "config.json").get("model_type") in _HF_TYPES:
        return "transformers"
    return "artifacts"


def mlflow_flavors(root: Path) -> frozenset[str]:
    """Return the flavors that the tree's MLmodel file names, none where there is no such file.

    Raises:
        UnsupportedModelError: The file cannot be read.
    """
    path = root / "MLmodel"
    if not path.is_file():
        return frozenset()
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise ValueError("larger than 4 MB")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UnsupportedModelError(
            f"MLmodel cannot be read: {str(error).splitlines()[0]}", hint="restore the file"
        ) from error
    flavors = content.get("flavors") if isinstance(content, dict) else None
    return frozenset(str(f) for f in flavors) if isinstance(flavors, dict) else frozenset()


def _configs(root: Path, names: Mapping[str, object]) -> list[str]:
    """Return configs that describe a CLIP, open_clip's first, shallow before deep."""
    found = []
    for name in sorted(names, key=lambda n: (n.count("/"), n)):
        last = PurePosixPath(name).name
        if last == OPEN_CLIP_CONFIG:
            found.append(name)
        elif last == "config.json":
            try:
                kind = read_json(root / name).get("model_type")
            except UnsupportedModelError:
                continue  # not ours to judge: no CLIP's config is broken JSON
            if kind in _HF_TYPES:
                found.append(name)
    folders = {PurePosixPath(n).parent for n in found if n.endswith(OPEN_CLIP_CONFIG)}
    # a folder on the Hub may carry both configs over one set of open_clip weights
    return [n for n in found if n.endswith(OPEN_CLIP_CONFIG) or _own(n, folders, names)]


def _own(name: str, folders: set[PurePosixPath], names: Mapping[str, object]) -> bool:
    folder = PurePosixPath(name).parent
    if folder not in folders:
        return True
    return not any((folder / n).as_posix() in names for n in _OPEN_CLIP_ORDER[:4])


def _weights_beside(
    root: Path, config: str, weighty: list[str], reports: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    folder = PurePosixPath(config).parent
    order = _OPEN_CLIP_ORDER if config.endswith(OPEN_CLIP_CONFIG) else _HF_ORDER
    for name in order:
        path = (folder / name).as_posix()
        if path in weighty:
            return (path,)
        shards = _shards(root, f"{path}.index.json", reports)
        if shards:
            return shards
    beside = sorted(n for n in weighty if PurePosixPath(n).parent == folder)
    safe = [n for n in beside if n.endswith(".safetensors")]
    return tuple((safe or beside)[:1])


def _shards(root: Path, index: str, reports: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    path = file_of(root, index)
    if not path.is_file():
        return ()
    named = read_json(path).get("weight_map")
    if not isinstance(named, dict):
        return ()
    folder = PurePosixPath(index).parent
    files = sorted({(folder / str(n)).as_posix() for n in named.values()})
    missing = [n for n in files if not _tensors(reports.get(n, {}))]
    if missing:
        raise UnsupportedModelError(
            f"{index} names {json.dumps(missing[0])}, which is not there or cannot be read",
            hint="restore the missing shard",
        )
    return tuple(files)


def _holds_weights(report: Mapping[str, Any]) -> bool:
    return _tensors(report) >= MIN_TENSORS


def _tensors(report: Mapping[str, Any]) -> int:
    return len(report.get("tensors", {})) + len(report.get("spans", {}))


def _largest(names: list[str], reports: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    def rank(name: str) -> tuple[bool, int]:
        report = reports[name]
        safe = report["container"] == "safetensors"
        return safe, _tensors(report)

    return tuple(sorted(names, key=rank, reverse=True)[:1])
