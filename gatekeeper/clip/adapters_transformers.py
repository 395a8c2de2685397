"""A transformers CLIPModel or SiglipModel as a module: built from its config, nothing else."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gatekeeper.clip.adapters_open_clip import check_sizes, first_line
from gatekeeper.clip.model import ClipModel, adapt_towers
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.errors import UnsupportedModelError

KINDS = {"clip": ("CLIPConfig", "CLIPModel"), "siglip": ("SiglipConfig", "SiglipModel")}


def build_module(config: Mapping[str, Any], device: str = "cpu") -> nn.Module:
    """Return an untrained module of the `config.json` in `config`.

    Raises:
        UnsupportedModelError: Not a CLIP or SigLIP, or sizes beyond reason.
    """
    import transformers

    kind = str(config.get("model_type"))
    if kind not in KINDS:
        raise UnsupportedModelError(
            f"config.json describes a '{kind}', not a CLIP",
            hint=f"model types that are read: {', '.join(KINDS)}",
        )
    check_sizes(config)
    plain = {k: v for k, v in config.items() if k not in ("auto_map", "_name_or_path")}
    config_name, model_name = KINDS[kind]
    try:
        built = getattr(transformers, config_name).from_dict(plain)
        built._attn_implementation = "sdpa"
        with torch.device(device), torch.random.fork_rng(devices=[]):
            module: nn.Module = getattr(transformers, model_name)(built)
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise UnsupportedModelError(
            f"transformers cannot build this {kind}: {first_line(error)}",
            hint="check config.json against the library's version",
        ) from error
    return module.eval()


def adapt(
    module: nn.Module, *, tokenize: Any, preprocess: Preprocess, arch: str, digest: str = ""
) -> ClipModel:
    """Return the loaded transformers `module` as a `ClipModel`."""
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
    return _pooled(module.get_image_features(pixel_values=normalised))  # type: ignore[operator]


def text_tower(module: nn.Module, tokens: Tensor) -> Tensor:
    """Return ([B, L] int64, padded to the context length) text embeddings [B, D]."""
    return _pooled(module.get_text_features(input_ids=tokens))  # type: ignore[operator]


def image_size(config: Mapping[str, Any]) -> int:
    """Return the side of the square input in pixels."""
    return int((config.get("vision_config") or {}).get("image_size", 224))


def context_length(config: Mapping[str, Any]) -> int:
    """Return how many tokens the text tower takes."""
    default = 64 if config.get("model_type") == "siglip" else 77
    return int((config.get("text_config") or {}).get("max_position_embeddings", default))


def _pooled(out: Any) -> Tensor:
    # transformers 5 wraps the features, 4 hands back the tensor
    pooled: Tensor = out if isinstance(out, Tensor) else out.pooler_output
    return pooled
