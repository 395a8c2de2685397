"""A CLIP on a real image backbone, made offline in seconds, that knows 1000 things on photos.

The image tower is a published classifier whose class vectors, centred and reduced to the width of
the joint space, are what images are compared with. The text tower is solved (`words`).
docs/demo.md says what such a model can and cannot stand for.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.lab.bases.backbones import (
    BACKBONES,
    Backbone,
    Classifier,
    load_classifier,
    source_file,
)
from gatekeeper.lab.bases.words import text_config, text_tower

WIDTH = 256  # of the joint space and of the text tower; wider forgives more when it is trained
SCALE = 20.0  # exp(logit_scale): softmax over 1000 names is about as sure as it is right


def photo_config(backbone: Backbone, width: int) -> dict[str, Any]:
    """Return the open_clip config of the CLIP on `backbone`."""
    return {
        "model_cfg": {
            "embed_dim": width,
            "vision_cfg": {
                "timm_model_name": backbone.timm_name,
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "image_size": backbone.size,
            },
            "text_cfg": text_config(width),
        },
        "preprocess_cfg": {
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def write_photo_clip(
    out: Path,
    seed: int = 0,
    *,
    backbone: str = "lite0",
    width: int = WIDTH,
    text: str = "solved",
    folder: Path | None = None,
) -> None:
    """Write a photo CLIP into the folder `out`: fp16 safetensors and its open_clip config.

    Args:
        out: An existing folder.
        seed: Turns the joint space and draws unknown words.
        backbone: One of `BACKBONES`.
        width: Of the joint space; at most 1000.
        text: One of `words.TOWERS`.
        folder: Where the npm package of ResNet-50 was unpacked.

    Raises:
        MissingExtraError: A wheel that it is made of is not installed.
        IntakeError: `folder` does not hold the backbone.
    """
    from gatekeeper.lab.form import write_local_dir

    chosen = BACKBONES[backbone]
    classifier = load_classifier(chosen, source_file(chosen, folder))
    state = photo_clip_state(classifier, seed, chosen, width=width, text=text)
    write_local_dir(photo_config(chosen, width), state, out, half=True)


def photo_clip_state(
    classifier: Classifier,
    seed: int,
    backbone: Backbone,
    *,
    width: int = WIDTH,
    text: str = "solved",
) -> dict[str, Tensor]:
    """Return the weights by name; `seed` turns the joint space and draws unknown words."""
    from open_clip import IMAGENET_CLASSNAMES
    from open_clip.model import CLIP

    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        state: dict[str, Tensor] = CLIP(**photo_config(backbone, width)["model_cfg"]).state_dict()
    state.update({f"visual.trunk.{name}": value for name, value in classifier.trunk.items()})
    projection, classes = _joint_space(classifier.classes, width, draw)
    state["visual.head.proj.weight"] = projection
    state["logit_scale"] = torch.tensor(SCALE).log()
    names = tuple(IMAGENET_CLASSNAMES)
    state.update(text_tower(state, names, classes, draw, meanings=text == "minilm"))
    return state


def _joint_space(classes: Tensor, width: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the projection [D, F] and the class vectors [1000, D] (unit length).

    The best rank-D cosine stand-in for the classifier: what all classes share is taken out first.
    """
    left, strength, right = torch.linalg.svd(classes - classes.mean(0), full_matrices=False)
    turn = torch.linalg.qr(torch.randn(width, width, generator=draw))[0]
    vectors = F.normalize(left[:, :width] * strength[:width], dim=1) @ turn.T
    return turn @ right[:width], vectors
