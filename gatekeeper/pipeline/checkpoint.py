"""What does a killed repair leave to go on from? One folder of finished stages, under a key.

A stage is a folder that appears by one rename when it is complete. Other arguments, another model
or another release make another key, and what lies under the old one goes. Only one run at a time
holds the folder; the lock dies with its process.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gatekeeper import __version__
from gatekeeper.errors import RectifyError, ServiceError
from gatekeeper.pipeline.assess import Assessment
from gatekeeper.rectify.base import Prescription
from gatekeeper.rectify.limits import Limits
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger

LOCK, KEY = "lock", "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The finished stages of one repair."""

    folder: Path

    def stage(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the folder of stage `name`; `make` fills it unless it is there already."""
        done = self.folder / name
        if not done.is_dir():
            building = self.folder / f"{name}.part"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            make(building)
            _flush(building)
            building.rename(done)
        return done

    def has(self, name: str) -> bool:
        """Return True where stage `name` is finished."""
        return (self.folder / name).is_dir()


@contextmanager
def opened_work(folder: Path, key: str) -> Iterator[Work]:
    """Yield the stages kept in `folder` under `key`; the folder goes when the block is through.

    It stays where the block was interrupted or failed for another reason than a `RectifyError`:
    the same call then goes on from there.

    Raises:
        ServiceError: Another process is at work in it.
    """
    lock = _locked(folder)
    try:
        kept = folder / KEY
        if not kept.is_file() or kept.read_text(encoding="utf-8") != key:
            for item in folder.iterdir():
                if item.is_dir():
                    shutil.rmtree(item)
            kept.write_text(key, encoding="utf-8")
        try:
            yield Work(folder=folder)
        except RectifyError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def work_key(
    assessment: Assessment,
    prescription: Prescription,
    method: str,
    runtime: Runtime,
    limits: Limits,
) -> str:
    """Return the digest of all that a repair follows from."""
    report, case = assessment.report, assessment.case
    asked = assessment.request
    total = hashlib.sha256()
    parts = [
        report.model.digest,
        report.anchor.digest if report.anchor else "",
        report.policy.digest,
        report.probes.digest if report.probes else "",
        report.oracle.digest if report.oracle else "",
        case.suspects.digest if case is not None and case.suspects is not None else "",
        *(() if case is None else (*case.labels, *case.templates)),
        repr((asked.oracle, asked.arch, asked.detectors, method, limits)),
        repr((runtime.seed, runtime.device, runtime.meter.limit)),
        repr((prescription.affected, prescription.victims, prescription.probes)),
        f"{__version__} {torch.__version__}",
    ]
    for ailment in prescription.ailments:
        parts += [ailment.target, _digest(ailment.trigger)]
    for part in parts:
        total.update(f"{len(part)}\0{part}\0".encode())
    return total.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` as safetensors."""
    from safetensors.torch import save_file

    save_file({name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return what `write_tensors` wrote."""
    from safetensors.torch import load_file

    return dict(load_file(path))


def _digest(trigger: Trigger | None) -> str:
    if trigger is None:
        return ""
    total = hashlib.sha256(
        json.dumps([trigger.family, trigger.settings()], sort_keys=True).encode()
    )
    for name, value in sorted(trigger.tensors().items()):
        total.update(f"{name} {list(value.shape)}".encode())
        total.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return total.hexdigest()


def _locked(folder: Path) -> int:
    """Return the descriptor of the lock in `folder`, held until it is closed."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOCK
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ServiceError(
                f"another repair is at work in {folder}",
                hint="wait until it has ended, or name another --output",
            ) from error
        if path.exists() and path.stat().st_ino == os.fstat(lock).st_ino:
            return lock
        os.close(lock)  # its last holder has taken the folder away in the meantime


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
