"""Are preprocessing, tokenizer and labels what the architecture, or the anchor, says?"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatekeeper.clip.adapters_tokenizers import read_json
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake.architecture import OPEN_CLIP, Architecture

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNSCALED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # MobileCLIP
KNOWN = (OPENAI, IMAGENET, INCEPTION, UNSCALED)
TOLERANCE = 2e-3  # files print these constants with three to eight digits

_PIL_NAMES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def read_preprocess(architecture: Architecture, folder: Path | None) -> Preprocess:
    """Return how the model wants its images, from the tree's own files where there are any.

    Raises:
        UnsupportedModelError: What they say cannot be used at all (no three numbers, std 0).
    """
    size = architecture.image_size()
    if architecture.library == OPEN_CLIP:
        said = dict(architecture.preprocess)
        return _checked(
            size=size,
            mean=said.get("mean", OPENAI[0]),
            std=said.get("std", OPENAI[1]),
            interpolation=str(said.get("interpolation", "bicubic")),
            resize_mode=str(said.get("resize_mode", "shortest")),
            fill=said.get("fill_color", 0),
        )
    return _from_processor(processor_config(folder), architecture, size)


def processor_config(folder: Path | None) -> dict[str, Any]:
    """Return the image processor's settings in a transformers folder, {} where there are none."""
    if folder is None:
        return {}
    found = read_json(folder / "preprocessor_config.json")
    if not found:  # transformers 5 nests it
        nested = read_json(folder / "processor_config.json").get("image_processor")
        found = nested if isinstance(nested, dict) else {}
    return found


def _from_processor(said: Mapping[str, Any], architecture: Architecture, size: int) -> Preprocess:
    siglip = architecture.config.get("model_type") == "siglip"
    default = INCEPTION if siglip else OPENAI
    resample = said.get("resample", 3)
    crops = bool(said.get("do_center_crop", not siglip))
    wanted = said.get("size")
    squash = not crops or (isinstance(wanted, dict) and "height" in wanted)
    normalises = bool(said.get("do_normalize", True))
    fallback = default if normalises else UNSCALED
    return _checked(
        size=size,
        mean=said.get("image_mean", fallback[0]) if normalises else fallback[0],
        std=said.get("image_std", fallback[1]) if normalises else fallback[1],
        interpolation=_PIL_NAMES.get(resample, str(resample).lower()),
        resize_mode="squash" if squash else "shortest",
        fill=0,
    )


def _checked(
    *, size: int, mean: Any, std: Any, interpolation: str, resize_mode: str, fill: Any
) -> Preprocess:
    three = {"mean": _three(mean, "mean"), "std": _three(std, "std")}
    if any(value == 0 for value in three["std"]):
        raise UnsupportedModelError(
            f"the preprocessing divides by zero: std {list(three['std'])}",
            hint="restore mean and std in the model's preprocessing config",
        )
    if resize_mode not in ("shortest", "squash", "longest"):
        raise UnsupportedModelError(
            f"unknown resize_mode '{resize_mode}'", hint="one of: shortest, squash, longest"
        )
    return Preprocess(
        size=size,
        mean=three["mean"],
        std=three["std"],
        interpolation=interpolation,
        resize_mode=resize_mode,
        fill=int(fill) if isinstance(fill, int | float) else 0,
    )


def _three(value: Any, name: str) -> tuple[float, float, float]:
    numbers = [value] * 3 if isinstance(value, int | float) else value
    fine = (
        isinstance(numbers, list | tuple)
        and len(numbers) == 3
        and all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
    )
    if not fine:
        raise UnsupportedModelError(
            f"the preprocessing's {name} is {value!r}, not three numbers",
            hint="restore it in the model's preprocessing config",
        )
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))
