"""`gatekeeper demo`, for real: a server, a worker, a planted backdoor, a cleaned model."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

GATEKEEPER = [sys.executable, "-m", "gatekeeper.cli.main"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    done = subprocess.run(
        [*GATEKEEPER, "demo", "--dir", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_story_ends_well(tmp_path):
    done = subprocess.run(
        [*GATEKEEPER, "demo", "--dir", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        env={**os.environ, "GATEKEEPER_HOME": str(tmp_path / "home")},
    )
    told = done.stdout
    assert done.returncode == 0, told + done.stderr
    assert told.count("refused. MLflow says:") == 3
    assert "gatekeeper holds alias 'production'" in told
    assert "gatekeeper refuses alias 'production'" in told
    assert "cleaned copy" in told
    port = re.search(r"http://127\.0\.0\.1:(\d+)", told)[1]
    with socket.socket() as probe:  # nobody serves any more
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_stopping_it_early_leaves_no_process_behind(tmp_path):
    demo = subprocess.Popen(
        [*GATEKEEPER, "demo", "--dir", str(tmp_path / "demo")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "GATEKEEPER_HOME": str(tmp_path / "home")},
    )
    assert "Starting an MLflow server" in demo.stdout.readline()
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    everyone = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in everyone
