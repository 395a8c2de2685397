"""The demo starts its own processes, with its own settings, and ends those alone."""

import subprocess
import sys
import time

import pytest

from gatekeeper.demo import processes
from gatekeeper.demo.processes import Place
from gatekeeper.errors import ServiceError
from gatekeeper.policy.schema import load_policy


@pytest.fixture
def place(tmp_path):
    return Place(folder=tmp_path, port=processes.free_port(), home=tmp_path / "home")


def test_settings_of_another_server_are_left_behind(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://registry.example")
    monkeypatch.setenv("GATEKEEPER_MODE", "audit")
    environment = place.environment()
    assert "MLFLOW_TRACKING_URI" not in environment
    assert "GATEKEEPER_MODE" not in environment
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["GATEKEEPER_HOME"] == str(place.home)


def test_a_server_that_ends_is_an_error_that_names_its_log(place):
    (place.folder / "server.log").write_text("address in use")
    server = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(ServiceError, match="exit code 3") as caught:
        processes.await_server(server, place)
    assert str(place.folder / "server.log") in caught.value.hint
    assert caught.value.exit_code == 4


def test_a_server_that_does_not_answer_is_an_error(place, monkeypatch):
    monkeypatch.setattr(processes, "START_S", 0.2)
    server = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    try:
        with pytest.raises(ServiceError, match="does not answer"):
            processes.await_server(server, place)
    finally:
        processes.stop(server)


def test_stop_ends_the_process_and_what_it_started(tmp_path):
    note = tmp_path / "pid"
    code = (
        "import subprocess, sys, time, pathlib;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)']);"
        f"pathlib.Path({str(note)!r}).write_text(str(p.pid)); time.sleep(300)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (note.is_file() and note.read_text()):
        time.sleep(0.05)
    processes.stop(parent)
    assert parent.poll() is not None
    child = int(note.read_text())
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)
    processes.stop(parent)  # once more does no harm


def _alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(state.stdout.strip()) and not state.stdout.strip().startswith("Z")


def test_its_policy_is_the_default_one_with_the_base_as_anchor(place):
    processes.write_policy(place)
    ours, shipped = load_policy(place.policy), load_policy()
    assert ours.scan.anchor == str(place.base)
    kept = ours.model_copy(update={"name": shipped.name, "scan": shipped.scan})
    assert kept == shipped
    assert place.environment()["GATEKEEPER_POLICY"] == str(place.policy)


def test_a_killed_worker_is_an_error_that_speaks_of_memory(place, monkeypatch):
    monkeypatch.setattr(processes.sys, "executable", "/bin/sh")
    monkeypatch.setattr(processes, "WORK", ("-c", "echo scanning; kill -9 $$"))
    heard = []
    with pytest.raises(ServiceError, match="GB of memory"):
        processes.work_off(place, heard.append)
    assert heard == ["scanning"]
