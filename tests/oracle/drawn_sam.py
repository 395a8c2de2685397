"""Segment Anything with drawn weights, and under the names of MobileSAM's publisher."""

import re

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
