"""Checkpoints of Segment Anything made on the spot, with drawn weights under the real names."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from drawn_sam import fill, mobile_names


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
