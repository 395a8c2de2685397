"""A repair killed with SIGKILL goes on from its finished stages, and never half-writes `out`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

RUN = """
import shutil, sys, time
from pathlib import Path

sys.path[:0] = [{tests!r}, {pipeline!r}]
import pytest
import test_rectification as told
from gatekeeper.types import Verdict

root, wait_in = Path(sys.argv[1]), sys.argv[2]
patch = pytest.MonkeyPatch()
shutil.rmtree(root / "suspect", ignore_errors=True)
bench = told.Bench(root, patch, [told.repaired(0.0)], [(Verdict.PASS,)])
patch.setattr(told.rounds, "recall", lambda request, file, _: bench.recalled(request, file))
for name in ("repair", "assess", "prove"):
    def slow(*given, name=name, real=getattr(told.rounds, name)):
        with (root / "calls").open("a") as calls:
            calls.write(name + "\\n")
        if name == wait_in:
            (root / "waiting").touch()
            time.sleep(60)
        return real(*given)
    patch.setattr(told.rounds, name, slow)
if wait_in == "publish":
    def halfway(staged, out):
        (root / "waiting").touch()
        time.sleep(60)
    patch.setattr(told.rectification, "_publish", halfway)
assert bench.run().passed
"""


def start(root: Path, wait_in: str) -> subprocess.Popen:
    here = Path(__file__).parent
    code = RUN.format(tests=str(here.parent), pipeline=str(here))
    return subprocess.Popen([sys.executable, "-c", code, str(root), wait_in])


def kill_in(root: Path, stage: str) -> None:
    process = start(root, stage)
    deadline = time.monotonic() + 120
    while not (root / "waiting").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (root / "waiting").unlink()


def test_a_killed_repair_goes_on(tmp_path):
    for stage in ("assess", "publish"):
        kill_in(tmp_path, stage)
        assert not (tmp_path / "out").exists()
    assert start(tmp_path, "").wait(timeout=120) == 0
    calls = (tmp_path / "calls").read_text().split()
    assert calls == ["repair", "assess", "assess", "prove"]
    assert {path.name for path in tmp_path.iterdir()} == {"suspect", "out", "calls"}
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert (tmp_path / "out" / "model" / "weights.bin").is_file()
