"""Is this file an image that can be trusted to a decoder, and what is in it? And back to PNG."""

import io
import struct
import warnings
import zlib
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gatekeeper.errors import ProbeError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # by content: no EPS in a .png's clothes
MAX_PIXELS = 64_000_000  # a header may claim a picture that fills the memory
MAX_ASPECT = 50  # the short side becomes the model's input: a thin strip would explode

_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError)
_BROKEN_INSIDE = (struct.error, zlib.error, OverflowError, MemoryError, RuntimeError)


def is_image_name(name: str) -> bool:
    """Say whether a file of this name counts as an image (contract: by suffix, not hidden)."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decode(source: Path | bytes, name: str) -> Image.Image:
    """Return the first frame of `source`, RGB and fully decoded; `name` is for people.

    Raises:
        ProbeError: It is unreadable, cut short, not one of the formats, or larger than allowed.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning; the limits below are ours
            with Image.open(stream, formats=FORMATS) as image:
                _check_size(image.size, name)
                return image.convert("RGB")
    except (*_BROKEN, *_BROKEN_INSIDE, Image.DecompressionBombError) as error:
        reason = "no image in it" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ProbeError(
            f"{name} cannot be read as an image: {reason}",
            hint="replace or remove the file, then run again",
        ) from error


def png(pixels: Tensor, least: int = 1) -> bytes:
    """Return one image ([3, h, w] in [0, 1]) as PNG, enlarged to at least `least` pixels a side."""
    array = (
        pixels.detach().float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    )
    image = Image.fromarray(array)
    if min(image.size) < least:
        factor = -(-least // min(image.size))
        image = image.resize(
            (image.width * factor, image.height * factor), Image.Resampling.NEAREST
        )
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ProbeError(
            f"{name} claims {width} x {height} pixels, at most {MAX_PIXELS} are read",
            hint="shrink the image: a model sees a few hundred pixels a side",
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ProbeError(
            f"{name} is {width} x {height} pixels, thinner than 1:{MAX_ASPECT}",
            hint="crop the image: a model sees a square of it",
        )
