"""Who says which architecture this is: the tree, the caller, the anchor, or the shapes alone?"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from gatekeeper.clip import adapters_open_clip as open_clip_towers
from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake import fit
from gatekeeper.intake.architecture import (
    Architecture,
    from_arch_option,
    from_open_clip_config,
    from_transformers_config,
)
from gatekeeper.intake.layout import OPEN_CLIP_CONFIG
from gatekeeper.intake.tensors import DTYPES, Place

IMAGE_PREFIX = "visual."  # open_clip's name of the image tower


def architecture_of(
    root: Path,
    config: str | None,
    arch: str | None,
    anchor: Architecture | None,
    places: Mapping[str, Place],
) -> Architecture:
    """Return the architecture, by the contract's order: tree, --arch, anchor, shapes.

    Raises:
        UnsupportedModelError: None of them tells; names --arch.
    """
    if config is not None:
        if PurePosixPath(config).name == OPEN_CLIP_CONFIG:
            return from_open_clip_config(root / config)
        return from_transformers_config(root / config)
    if arch is not None:
        return from_arch_option(arch)
    have = shapes(places)
    if anchor is not None and (fits(anchor, have) or image_alone(anchor, have)):
        return anchor
    names = matching(have)
    if len(names) == 1:
        return from_arch_option(names[0])
    which = f"fit these {len(names)}: {', '.join(names)}" if names else "fit none that is built in"
    raise UnsupportedModelError(
        f"the model does not say its architecture, and its tensors {which}",
        hint="name it with --arch (an open_clip name, or an open_clip_config.json)",
    )


def shapes(places: Mapping[str, Place]) -> dict[str, Tensor]:
    """Return tensors without memory, of the shapes in the file."""
    return {
        name: torch.empty(p.shape, dtype=DTYPES.get(p.dtype, torch.float32), device="meta")
        for name, p in places.items()
    }


def fits(architecture: Architecture, have: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors fill the whole architecture."""
    try:
        fit.mapping(architecture.build("meta").state_dict(), have)
    except UnsupportedModelError:
        return False
    return True


def image_alone(architecture: Architecture, have: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors are the architecture's image tower and nothing else."""
    return bool(image_names(architecture, have))


def image_names(architecture: Architecture, have: Mapping[str, Tensor]) -> dict[str, str]:
    """Return {module's name: file's name} of an image tower alone, {} where it is none.

    In the file its tensors are named from the tower's own root, or by the whole model's names.
    """
    prefix = "vision_model." if architecture.library == "transformers" else IMAGE_PREFIX
    whole = architecture.build("meta").state_dict()
    wanted = {k: v for k, v in whole.items() if k.startswith(prefix)}
    for strip in ("", prefix):
        try:
            found = fit.mapping({k.removeprefix(strip): v for k, v in wanted.items()}, have)
        except UnsupportedModelError:
            continue
        return {(f"{strip}{name}" if strip else name): file for name, file in found.items()}
    return {}


def looks_like_image_tower(names: Sequence[str]) -> bool:
    """Return whether tensor names speak of images and of no text at all."""
    bare = [n.removeprefix("model.").removeprefix("module.") for n in names]
    words = ("token_embedding", "text_model", "text_projection", "text.", "logit_scale")
    return bool(bare) and not any(any(w in n for w in words) for n in bare)


def matching(have: Mapping[str, Tensor]) -> list[str]:
    """Return the built-in open_clip architectures that these tensors fill exactly.

    Built on the meta device, after a cheap filter by the sizes that a config states outright.
    """
    bare = {name: tuple(have[file].shape) for name, file in fit.unwrapped(list(have)).items()}
    found = []
    for name in open_clip_towers.builtin_configs():
        config = open_clip_towers.builtin_config(name)
        if config is None or not _plausible(config, bare):
            continue
        candidate = from_arch_option(name)
        try:
            if fits(candidate, have):
                found.append(name)
        except (UnsupportedModelError, ImportError):
            continue
    return found


def _plausible(config: Mapping[str, Any], bare: Mapping[str, tuple[int, ...]]) -> bool:
    text, vision = config["text_cfg"], config["vision_cfg"]
    for prefix in ("", "text."):
        tokens = bare.get(f"{prefix}token_embedding.weight")
        if tokens and tokens != (text.get("vocab_size", 49408), text.get("width", 512)):
            return False
    stem = bare.get("visual.conv1.weight")
    if stem and not vision.get("timm_model_name") and not isinstance(vision.get("layers"), list):
        patch = vision.get("patch_size", 16)
        return stem == (vision.get("width", 768), 3, patch, patch)
    trunk = any(name.startswith("visual.trunk.") for name in bare)
    return trunk == bool(vision.get("timm_model_name"))
