"""How a CLIP of the lab lies on disk: an open_clip local-dir, safetensors, no pickle."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from torch import Tensor

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"


def write_local_dir(
    config: Mapping[str, Any], state: Mapping[str, Tensor], out: Path, *, half: bool = False
) -> None:
    """Write config and weights into the existing folder `out`.

    Args:
        config: open_clip's `model_cfg` and `preprocess_cfg`.
        state: Weights by name.
        out: An existing folder.
        half: Store matrices and vectors in fp16; scalars keep their precision.
    """
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu() for name, value in state.items()}
    if half:
        tensors = {name: _halved(value) for name, value in tensors.items()}
    plain = {name: value.contiguous() for name, value in tensors.items()}
    save_file(plain, out / WEIGHTS, metadata={"format": "pt"})
    (out / CONFIG).write_text(json.dumps(config, indent=1) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the open_clip config in `folder`."""
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return config


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """Give a new empty folder that becomes `out` at the end, and disappears on an error.

    What lies at `out` already is replaced.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        inside = work / out.name
        inside.mkdir()
        yield inside
        shutil.rmtree(out, ignore_errors=True)
        inside.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _halved(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() and value.dim() else value
