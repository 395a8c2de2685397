"""`gatekeeper worker --concurrency 2`, as processes: each job once, in either of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatekeeper.gate import db
from gatekeeper.gate.moves import Names, NotMovedError, move

pytestmark = pytest.mark.slow  # three processes that import torch, twice
PROGRAM = Path(__file__).with_name("stand_in_worker.py")


@pytest.fixture
def waiting(registry, tmp_path, monkeypatch):
    """A registry with four models in the queue; returns their names."""
    names = [f"clip{number}" for number in range(4)]
    for name in names:
        folder = tmp_path / name
        folder.mkdir()
        config = {"model_cfg": {"name": name}}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        (folder / "open_clip_model.safetensors").write_bytes(b"clean " + name.encode())
        registry.add(folder, name)
        with pytest.raises(NotMovedError, match="holds"):
            move(f"models:/{name}/1", Names(alias="production"))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "scans.log"))
    return names


def crew(*options):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), "--concurrency", "2", "--device", "cpu", *options],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )


def jobs_of(registry):
    with db.Database.open(registry.uri).reading() as connection:
        return db.jobs(connection)


def test_two_processes_share_the_queue_and_end_when_it_is_empty(
    registry, waiting, tmp_path, monkeypatch
):
    monkeypatch.setenv("STAND_IN_S", "3")
    process = crew("--once")
    told = process.communicate(timeout=110)[1]
    assert process.returncode == 0, told
    lines = [line.split() for line in (tmp_path / "scans.log").read_text().splitlines()]
    assert sorted(uri for _, uri in lines) == [f"models:/{name}/1" for name in waiting]
    assert len({pid for pid, _ in lines}) == 2
    assert {job.status for job in jobs_of(registry)} == {"done"}
    for name in waiting:
        move(f"models:/{name}/1", Names(alias="production"))
        assert registry.alias(name, "production") == "1"


def test_sigterm_hands_every_job_back(registry, waiting, monkeypatch):
    monkeypatch.setenv("STAND_IN_S", "60")
    process = crew()
    end = time.monotonic() + 60
    while time.monotonic() < end and [j.status for j in jobs_of(registry)].count("running") < 2:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 0, told
    assert "handed back" in told
    assert {(job.status, job.attempts) for job in jobs_of(registry)} == {("queued", 0)}
