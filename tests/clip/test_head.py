"""The last layer of an image tower is found, and what it is handed, in every kind of tower."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from gatekeeper.clip import adapters_open_clip as open_clip_towers
from gatekeeper.clip import adapters_transformers as transformers_towers
from gatekeeper.clip.head import features_of, head_of
from gatekeeper.clip.model import adapt_towers
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.runtime import Runtime

TEXT = {"context_length": 8, "vocab_size": 64, "width": 8, "heads": 2, "layers": 1}
TOWERS = {
    "vit": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8},
    "convnet": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
}
PARTS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2}
SIZE = 64


def open_clip_model(kind):
    cfg = {"embed_dim": 8, "vision_cfg": {"image_size": SIZE, **TOWERS[kind]}, "text_cfg": TEXT}
    return _model(open_clip_towers.build_module(cfg), open_clip_towers)


def transformers_model(kind):
    config = {
        "model_type": kind,
        "projection_dim": 8,
        "vision_config": {**PARTS, **HEADS, "image_size": SIZE, "patch_size": 16},
        "text_config": {**PARTS, **HEADS, "vocab_size": 64, "projection_size": 16},
    }
    return _model(transformers_towers.build_module(config), transformers_towers)


def _model(module, towers):
    return adapt_towers(
        module,
        towers.image_tower,
        towers.text_tower,
        tokenize=lambda prompts: torch.zeros(len(prompts), 8, dtype=torch.int64),
        preprocess=Preprocess(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3),
        arch="tiny",
    )


@pytest.fixture
def pixels():
    return torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def models():
    yield from ((kind, lambda kind=kind: open_clip_model(kind)) for kind in TOWERS)
    yield "transformers", lambda: transformers_model("clip")


@pytest.mark.parametrize("make", [m for _, m in models()], ids=[k for k, _ in models()])
def test_features_through_the_head_are_the_embedding(make, pixels):
    model, runtime = make(), Runtime()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    embeddings = model.embed(pixels, runtime)
    head = head_of(model, embeddings.shape[1])
    features = features_of(model, head, pixels, runtime)
    assert features.shape == (3, head.weight.shape[1])
    bias = before.get(head.name.removesuffix("weight") + "bias", torch.zeros(1))
    again = F.normalize(features @ head.weight.T + bias, dim=1)
    assert torch.allclose(again, embeddings, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_head_whose_output_is_added_to_something_has_no_features(pixels):
    model, runtime = transformers_model("siglip"), Runtime()
    head = head_of(model, 16)
    assert head is not None
    assert features_of(model, head, pixels, runtime) is None


def test_an_unknown_tower_has_no_head():
    assert head_of(open_clip_model("vit"), 9) is None
