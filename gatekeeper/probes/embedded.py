"""Which clean photos are at hand where the user has none?

Photos that ship inside the wheels of our own dependencies (scikit-image, and scikit-learn and
matplotlib, which MLflow requires), cut into squares. docs/probes.md lists authors and licences.
"""

import functools
import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from gatekeeper.errors import ProbeError
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.picture import decode
from gatekeeper.probes.probe_set import Probe, ProbeSet

SIDE = 256  # pixels
MINIMUM = 64  # squares; fewer would not carry a scan's rates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One photo in a wheel and how densely it is cut."""

    package: str
    path: str
    detail: bool = True  # False: a texture, of which two squares say all


_SOURCES = (
    _Source(package="skimage", path="data/astronaut.png"),
    _Source(package="skimage", path="data/chelsea.png"),
    _Source(package="skimage", path="data/coffee.png"),
    _Source(package="skimage", path="data/rocket.jpg"),
    _Source(package="sklearn", path="datasets/images/china.jpg"),
    _Source(package="sklearn", path="datasets/images/flower.jpg"),
    _Source(package="matplotlib", path="mpl-data/sample_data/grace_hopper.jpg"),
    _Source(package="skimage", path="data/camera.png"),
    _Source(package="skimage", path="data/coins.png"),
    _Source(package="skimage", path="data/clock_motion.png", detail=False),
    _Source(package="skimage", path="data/hubble_deep_field.jpg"),
    _Source(package="skimage", path="data/retina.jpg"),
    _Source(package="skimage", path="data/ihc.png"),
    _Source(package="skimage", path="data/brick.png", detail=False),
    _Source(package="skimage", path="data/grass.png", detail=False),
    _Source(package="skimage", path="data/gravel.png", detail=False),
    _Source(package="skimage", path="data/cell.png", detail=False),
)


@functools.cache
def embedded_probes() -> ProbeSet:
    """Return at least 64 distinct squares of 256 px, neighbours in order from different photos.

    A square's digest covers the photo's file and the cut, not the scaled pixels, so that it does
    not move with the decoder's version.

    Raises:
        ProbeError: Too few of the photos are installed.
    """
    per_photo = [_squares(source) for source in _SOURCES]
    rounds = range(max(len(squares) for squares in per_photo))
    probes = tuple(squares[i] for i in rounds for squares in per_photo if i < len(squares))
    if len(probes) < MINIMUM:
        raise ProbeError(
            f"only {len(probes)} embedded probes can be made, {MINIMUM} are needed: photos of "
            "scikit-image, scikit-learn or matplotlib are missing",
            hint="pip install 'mlflow-gatekeeper[scan]', or give your own images with --probes",
        )
    return ProbeSet(name="embedded", probes=probes, embedded=True)


@functools.cache
def default_labels() -> Labels:
    """Return the embedded labels: the 1000 ImageNet class names of open_clip, merged by name.

    Source: open_clip's `IMAGENET_CLASSNAMES` (names curated for CLIP, arXiv:2103.00020).
    """
    from open_clip import IMAGENET_CLASSNAMES

    return Labels(labels=tuple(dict.fromkeys(IMAGENET_CLASSNAMES)), source="embedded")


def _squares(source: _Source) -> list[Probe]:
    path = _locate(source)
    if path is None:
        return []
    content = path.read_bytes()
    image = decode(content, str(path))
    stem = path.stem.replace("_", "-")
    probes = []
    for x, y, side in _cuts(*image.size, source.detail):
        square = image.crop((x, y, x + side, y + side))
        square = square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        cut = f"{x},{y},{side},{SIDE}".encode()
        probes.append(
            Probe(
                file=f"{source.package}/{stem}-{side}-{x}-{y}.png",
                sha256=hashlib.sha256(hashlib.sha256(content).digest() + cut).hexdigest(),
                array=np.asarray(square, dtype=np.uint8),
            )
        )
    return probes


def _locate(source: _Source) -> Path | None:
    spec = find_spec(source.package)  # finds without importing
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / source.path
    return path if path.is_file() else None


def _cuts(width: int, height: int, detail: bool) -> list[tuple[int, int, int]]:
    """Return (x, y, side) of each square: the largest ones first, then corners."""
    short = min(width, height)
    right, bottom = width - short, height - short
    large = [(right // 2, bottom // 2, short)]
    if detail and max(width, height) > 1.25 * short:
        large = [(0, 0, short), (right, bottom, short)]
    side = round(0.6 * short)
    right, bottom = width - side, height - side
    corners = [(0, 0, side), (right, bottom, side), (right, 0, side), (0, bottom, side)]
    return large + (corners if detail else corners[:1])
