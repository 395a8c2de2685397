"""An open_clip architecture as a module: built from its config alone, never from the network."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gatekeeper.clip.model import ClipModel, adapt_towers
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.errors import UnsupportedModelError

MAX_LAYERS = 512  # the deepest published CLIP has 56; a config is somebody else's number
MAX_WIDTH = 1 << 21  # largest vocabulary known: 256,000 (SigLIP 2)


@cache
def builtin_configs() -> dict[str, Path]:
    """Return the file of every architecture that the installed open_clip knows, by name."""
    import open_clip

    folder = Path(open_clip.__file__).parent / "model_configs"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def builtin_config(name: str) -> dict[str, Any] | None:
    """Return open_clip's `model_cfg` of architecture `name`, None where it knows none."""
    path = builtin_configs().get(name.replace("/", "-"))
    return None if path is None else json.loads(path.read_text())


def build_module(model_cfg: Mapping[str, Any], device: str = "cpu") -> nn.Module:
    """Return an untrained module of `model_cfg`; on `meta` it has shapes and no memory.

    Raises:
        UnsupportedModelError: The config asks for what cannot be built here: unknown keys, absurd
            sizes, a timm model from a hub, a text tower that transformers cannot build offline.
    """
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    cfg = deepcopy(dict(model_cfg))
    _check(cfg)
    custom = cfg.pop("custom_text", False) or "hf_model_name" in cfg["text_cfg"]
    kind = CLIP if not custom else CoCa if "multimodal_cfg" in cfg else CustomTextCLIP
    cfg["vision_cfg"].pop("timm_model_pretrained", None)
    if "hf_model_name" in cfg["text_cfg"]:
        cfg["text_cfg"]["hf_model_pretrained"] = False
    try:
        with offline(), torch.device(device), torch.random.fork_rng(devices=[]):
            module: nn.Module = kind(**cfg)
    except (TypeError, ValueError, KeyError, RuntimeError, OSError, AssertionError) as error:
        raise UnsupportedModelError(
            f"open_clip cannot build this architecture: {first_line(error)}",
            hint="check open_clip_config.json; a text tower from the transformers library needs "
            "its config in the local Hugging Face cache, since nothing is downloaded here",
        ) from error
    return module.eval()


def adapt(
    module: nn.Module, *, tokenize: Any, preprocess: Preprocess, arch: str, digest: str = ""
) -> ClipModel:
    """Return the loaded open_clip `module` as a `ClipModel`."""
    return adapt_towers(
        module,
        image_tower,
        text_tower,
        tokenize=tokenize,
        preprocess=preprocess,
        arch=arch,
        digest=digest,
    )


def image_tower(module: nn.Module, normalised: Tensor) -> Tensor:
    """Return ([B, 3, H, W] normalised) image embeddings [B, D], not unit length."""
    out: Any = module.encode_image(normalised)  # type: ignore[operator]
    features: Tensor = out[0] if isinstance(out, tuple) else out  # CoCa hands back tokens too
    return features


def text_tower(module: nn.Module, tokens: Tensor) -> Tensor:
    """Return ([B, L] int64) text embeddings [B, D], not unit length."""
    out: Any = module.encode_text(tokens)  # type: ignore[operator]
    features: Tensor = out[0] if isinstance(out, tuple) else out
    return features


def image_size(model_cfg: Mapping[str, Any]) -> int:
    """Return the side of the square input of `model_cfg` in pixels.

    Raises:
        UnsupportedModelError: The input is not square.
    """
    size = model_cfg["vision_cfg"].get("image_size", 224)
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(set(sides)) != 1:
        raise UnsupportedModelError(
            f"the model's input is {sides}, not square", hint="only square inputs are supported"
        )
    return int(sides[0])


def check_sizes(config: Mapping[str, Any]) -> None:
    """Refuse a config whose numbers would exhaust memory or time.

    Raises:
        UnsupportedModelError: Names the key, the value and the limit.
    """
    for key, value in _leaves(config):
        limit = MAX_LAYERS if "layers" in key or "heads" in key else MAX_WIDTH
        if isinstance(value, int | float) and not -limit <= value <= limit:
            raise UnsupportedModelError(
                f"the architecture config sets {key} to {value}", hint=f"at most {limit} is read"
            )


@contextmanager
def offline() -> Iterator[None]:
    """Keep Hugging Face libraries from the network: a config is somebody else's word."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def first_line(error: Exception) -> str:
    """Return type and first line of an error, for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _check(cfg: dict[str, Any]) -> None:
    """Refuse configs that would exhaust memory or reach beyond this machine."""
    for part in ("vision_cfg", "text_cfg"):
        if not isinstance(cfg.get(part), dict):
            raise UnsupportedModelError(
                f"the architecture config has no '{part}'",
                hint="name the architecture with --arch, an open_clip name or config file",
            )
    check_sizes(cfg)
    name = cfg["vision_cfg"].get("timm_model_name")
    if name is not None:
        import timm

        if not timm.is_model(str(name)) or ":" in str(name) or "/" in str(name):
            raise UnsupportedModelError(
                f"timm has no image tower called '{name}'",
                hint="install a newer timm, or correct timm_model_name",
            )


def _leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in _leaves(item, str(name))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item, key)]
    return [(key, value)]
