"""`gatekeeper demo`, for real: a server, a worker, a planted backdoor, a cleaned model."""

import os
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
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("refused. MLflow says:") == 3
    assert "gatekeeper holds alias 'production'" in done.stdout
    assert "cleaned by gatekeeper" in done.stdout
