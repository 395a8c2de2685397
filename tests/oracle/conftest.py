"""Checkpoints of Segment Anything made on the spot, with drawn weights under the real names."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

_TO_MOBILE = (
    (r"^image_encoder\.trunk\.patch_embed\.conv1\.", "image_encoder.patch_embed.seq.0."),
    (r"^image_encoder\.trunk\.patch_embed\.conv2\.", "image_encoder.patch_embed.seq.2."),
    (r"^image_encoder\.trunk\.stages\.", "image_encoder.layers."),
    (r"\.conv\.weight$", ".c.weight"),
)


def mobile_names(state):
    """Return tensors under the names that MobileSAM's publisher gave them."""
    named = {}
    for name, tensor in state.items():
        name = re.sub(
            r"stages\.(\d)\.downsample", lambda m: f"stages.{int(m[1]) - 1}.downsample", name
        )
        for pattern, replacement in _TO_MOBILE:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor
    return named


def fill(model, seed=0):
    """Draw every tensor of `model` anew, mildly, so that none keeps its initial value."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator) * 0.05
                tensor.copy_(drawn.abs() + 0.9 if name.endswith("running_var") else drawn)
    return model.eval()


@pytest.fixture(scope="session")
def mobile_model():
    from gatekeeper.oracle import sam

    return fill(sam._mobile())


@pytest.fixture(scope="session")
def mobile_checkpoint(mobile_model, tmp_path_factory):
    import torch

    state = mobile_names(mobile_model.state_dict())
    state["image_encoder.norm_head.weight"] = torch.ones(320)
    state["image_encoder.norm_head.bias"] = torch.ones(320)
    state["image_encoder.head.weight"] = torch.ones(1000, 320)
    state["image_encoder.head.bias"] = torch.ones(1000)
    path = tmp_path_factory.mktemp("mobile") / "mobile_sam.pt"
    torch.save(state, path)
    return path
