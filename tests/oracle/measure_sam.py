"""What does a Segment Anything architecture cost here? CPU seconds and resident memory.

    python tests/oracle/measure_sam.py vit_b            # drawn weights, made on the spot
    python tests/oracle/measure_sam.py mobile_sam.pt    # a checkpoint

Prints one line a step. Drawn weights are written to a temporary folder and read back by a fresh
process, so that memory is that of reading alone.
"""

# ruff: noqa: T201 - a script that answers on the terminal

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch


def make(arch: str, path: Path) -> None:
    """Write drawn weights of `arch` under the real names."""
    from segment_anything import sam_model_registry

    torch.save(sam_model_registry[arch](checkpoint=None).state_dict(), path)


def measure(path: Path) -> None:
    """Print what loading and one image cost."""
    from gatekeeper.oracle.sam import Sam
    from gatekeeper.runtime import Runtime

    torch.set_num_threads(1)
    sam, runtime = Sam(checkpoint=path, points_per_side=4, least_iou=-9.0), Runtime()
    image = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    steps = (
        ("digest", lambda: sam.digest),
        ("load", lambda: sam._model(runtime)),
        ("16 points", lambda: sam.regions(image, runtime)),
    )
    for name, step in steps:
        start = time.process_time()
        step()
        peak = _peak_mib()
        print(
            f"{path.stem:8} {name:10} {time.process_time() - start:7.1f} CPU s, peak {peak:.0f} MiB"
        )


def _peak_mib() -> float:
    """Return this process's own peak; getrusage would carry over that of the one that began it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main(name: str) -> None:
    """Measure the checkpoint `name`, or the architecture `name` with drawn weights."""
    if Path(name).is_file():
        measure(Path(name))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.pth"
        make(name, path)
        size = path.stat().st_size / 2**20
        print(f"{name}: checkpoint of {size:.0f} MiB", flush=True)
        subprocess.run([sys.executable, __file__, str(path)], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
