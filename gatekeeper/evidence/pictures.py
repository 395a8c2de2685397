"""How do pictures get into one page that stays small?"""

import base64
import io
from dataclasses import dataclass

from markupsafe import Markup

LIMIT_BYTES = 2_300_000  # of data: URIs; the whole page stays below 3 MB
MOST = 0.8  # of the image's area
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(slots=True)
class Album:
    """Hands out `data:` URIs until `left` characters are used up, then None."""

    left: int = LIMIT_BYTES

    def exact(self, png: bytes) -> Markup | None:
        """Return the PNG as it is, for patterns whose every pixel counts."""
        return self._take("image/png", png) if size_of(png) else None

    def photo(self, png: bytes, side: int = 224) -> Markup | None:
        """Return a JPEG of the PNG, at most `side` pixels: a tenth of its bytes."""
        from PIL import Image, UnidentifiedImageError

        if not size_of(png):
            return None
        try:
            with Image.open(io.BytesIO(png)) as image:
                small = image.convert("RGB")
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
            return None
        if max(small.size) > side:
            small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=88)
        return self._take("image/jpeg", buffer.getvalue())

    def _take(self, kind: str, blob: bytes) -> Markup | None:
        uri = f"data:{kind};base64,{base64.b64encode(blob).decode()}"
        if len(uri) > self.left:
            return None
        self.left -= len(uri)
        return Markup(uri)  # noqa: S704 - base64


def size_of(png: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from a PNG's header; None where it is none."""
    if len(png) < 24 or not png.startswith(_PNG) or png[12:16] != b"IHDR":
        return None
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    return (width, height) if 0 < width <= 8192 and 0 < height <= 8192 else None


def box_style(box: tuple[int, int, int, int] | None, png: bytes) -> str | None:
    """Return the CSS that lays a frame over a picture where `box` (pixels) lies; None: no box.

    A trigger that fills the image needs no frame.
    """
    size = size_of(png)
    if box is None or size is None:
        return None
    width, height = size
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        return None
    if (x1 - x0) * (y1 - y0) > MOST * width * height:
        return None
    left, top = 100 * x0 / width, 100 * y0 / height
    across, down = 100 * (x1 - x0) / width, 100 * (y1 - y0) / height
    return f"left:{left:.2f}%;top:{top:.2f}%;width:{across:.2f}%;height:{down:.2f}%"
