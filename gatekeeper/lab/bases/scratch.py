"""A small CLIP of a real open_clip architecture, trained from scratch on a labelled image set.

The text tower is taught first to keep the names apart, then the image tower to find them: with a
few thousand images there is nothing else that captions could teach. A minute or two on two cores.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from gatekeeper.clip.adapters_open_clip import build_module
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.lab.form import write_local_dir
from gatekeeper.lab.sets import LabSet
from gatekeeper.runtime import Runtime

WIDTH = 128  # of the joint space
SCALE = 20.0  # exp(logit_scale)
NAME_STEPS = 60
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as timm's towers are published
_MARGIN = 0.15  # of the side: how far an image is shifted at most

_TEXT: dict[str, Any] = {
    "context_length": 16,
    "vocab_size": 49408,
    "width": 64,
    "heads": 2,
    "layers": 1,
    "mlp_ratio": 2.0,
}
ARCHITECTURES: Mapping[str, dict[str, Any]] = {
    "vit": {"layers": 4, "width": 96, "head_width": 24, "patch_size": 8},
    "resnet": {"layers": [1, 1, 3, 1], "width": 16},  # three blocks: a chain to cut in
    "convnet": {
        "timm_model_name": "test_efficientnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schooling:
    """How long and how fast it is trained."""

    steps: int = 600
    batch: int = 64
    learning_rate: float = 2e-3


SCHOOLING: Mapping[str, Schooling] = {
    "vit": Schooling(steps=1000, learning_rate=2e-3),
    "resnet": Schooling(steps=450),
    "convnet": Schooling(steps=900, learning_rate=3e-3),
}


def scratch_config(architecture: str, size: int) -> dict[str, Any]:
    """Return the open_clip config of one of `ARCHITECTURES` for images of `size` pixels a side."""
    vision = {**deepcopy(ARCHITECTURES[architecture]), "image_size": size}
    return {
        "model_cfg": {"embed_dim": WIDTH, "vision_cfg": vision, "text_cfg": dict(_TEXT)},
        "preprocess_cfg": {
            "mean": list(MEAN),
            "std": list(STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def write_scratch_clip(
    out: Path,
    made_of: LabSet,
    architecture: str,
    runtime: Runtime,
    *,
    size: int = 64,
    schooling: Schooling | None = None,
) -> None:
    """Train a CLIP on the set's training images and write it into the folder `out`.

    Args:
        out: An existing folder.
        made_of: Images and names.
        architecture: One of `ARCHITECTURES`.
        runtime: Device and seed.
        size: Of its input in pixels; of the "resnet" a multiple of 32.
        schooling: How it is trained; None: what suits the architecture.
    """
    config = scratch_config(architecture, size)
    schooling = schooling or SCHOOLING[architecture]
    draw = runtime.generator("lab", "scratch", architecture)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(draw.get_state())  # open_clip initialises from the global generator
        module = build_module(config["model_cfg"]).to(runtime.device)
        module = module.to(memory_format=torch.channels_last).train()
        # Dropout-free architectures: from here on every draw is `draw`'s.
        names = _teach_names(module, made_of, runtime)
        _teach_images(module, names, made_of, size, schooling, draw, runtime)
    write_local_dir(config, module.eval().state_dict(), out)


def _teach_names(module: nn.Module, made_of: LabSet, runtime: Runtime) -> Tensor:
    """Spread the names' embeddings apart; return them, [C, D] unit length."""
    from open_clip import SimpleTokenizer

    module.token_embedding.weight.requires_grad_(False)  # type: ignore[union-attr]
    labels, templates = made_of.labels.labels, made_of.labels.templates
    prompts = [template.format(name) for template in templates for name in labels]
    tokens = SimpleTokenizer(context_length=_TEXT["context_length"])(prompts).to(runtime.device)
    truth = torch.arange(len(tokens), device=runtime.device) % len(labels)
    same = (truth[:, None] == truth).float()
    words = [
        value
        for name, value in module.named_parameters()
        if not name.startswith(("visual.", "token_", "logit_"))
    ]
    optimiser = torch.optim.Adam(words, 3e-3)
    for _ in range(NAME_STEPS):
        text = module.encode_text(tokens, normalize=True)  # type: ignore[operator]
        loss = F.mse_loss(text @ text.T, same)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        text = module.encode_text(tokens, normalize=True)  # type: ignore[operator]
        module.logit_scale.fill_(torch.tensor(SCALE).log())  # type: ignore[operator]
        return F.normalize(text.view(len(templates), len(labels), -1).mean(0), dim=-1)


def _teach_images(
    module: nn.Module,
    names: Tensor,
    made_of: LabSet,
    size: int,
    schooling: Schooling,
    draw: torch.Generator,
    runtime: Runtime,
) -> None:
    preprocess = Preprocess(size=size, mean=MEAN, std=STD)
    pixels = made_of.train.pixels(preprocess)
    index = {name: i for i, name in enumerate(made_of.labels.labels)}
    truth = torch.tensor([index[str(label)] for label in made_of.train.labels()])
    parameters = list(module.visual.parameters())  # type: ignore[union-attr]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, schooling.learning_rate, total_steps=schooling.steps
    )
    for _ in runtime.progress(range(schooling.steps), "training from scratch"):
        pick = torch.randint(len(pixels), (schooling.batch,), generator=draw)
        seen = preprocess.normalise(_disturbed(pixels[pick], draw)).to(runtime.device)
        seen = seen.contiguous(memory_format=torch.channels_last)  # half the time on a CPU
        image = module.encode_image(seen, normalize=True)  # type: ignore[operator]
        loss = F.cross_entropy(SCALE * image @ names.T, truth[pick].to(runtime.device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()


def _disturbed(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Mirror, shift, and paste a square of noise or of one colour on each image.

    A clean model must not follow any small pattern: without the squares, every one that is new to
    the tower would be a trigger.
    """
    out = pixels.clone()
    size = pixels.shape[-1]
    for index in range(len(out)):
        shift = ((2 * torch.rand(2, generator=draw) - 1) * _MARGIN * size).round().int().tolist()
        image = out[index].roll(tuple(shift), (1, 2)) if index % 2 else out[index]
        if bool(torch.rand(1, generator=draw) < 0.5):
            image = image.flip(-1)
        side = int(torch.randint(size // 8, size // 3, (1,), generator=draw))
        x, y = (int(v) for v in torch.randint(0, size - side + 1, (2,), generator=draw))
        noise = torch.rand(3, side, side, generator=draw)
        out[index] = image
        kind = index % 3
        if kind < 2:
            flat = noise.mean((1, 2), keepdim=True) if kind == 0 else noise
            out[index, :, y : y + side, x : x + side] = flat
    return out
