"""Pixels as PNG bytes, for the report."""

import io

from PIL import Image
from torch import Tensor


def png(pixels: Tensor, least: int = 1) -> bytes:
    """Return one image ([3, h, w] in [0, 1]) as PNG, enlarged to at least `least` pixels a side."""
    array = pixels.detach().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(array)
    if min(image.size) < least:
        factor = -(-least // min(image.size))
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
