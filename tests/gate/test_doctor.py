"""Every check: what it says when all is well, and what it tells to do when it is not."""

import json
import shutil
from pathlib import Path

import pytest

from gatekeeper.gate import doctor
from gatekeeper.gate.doctor import State


def check(name, home=None):
    """One check by its name; the others are not run."""
    look = {"home": lambda: doctor._home(home)}.get(name) or getattr(doctor, f"_{name}")
    return look()


def test_every_check_is_made_once_and_leaves_nothing_behind(registry, monkeypatch):
    evidence = registry.root / "evidence"
    monkeypatch.setenv("GATEKEEPER_EVIDENCE", str(evidence))
    checks = {found.name: found for found in doctor.examine(registry.root / "home")}
    assert list(checks) == [
        "python", "mlflow", "scanner", "telemetry", "home", "policy", "database",
        "mlflow server", "evidence",
    ]  # fmt: skip
    assert {found.state for found in checks.values()} <= {State.OK, State.WARN}
    assert checks["database"].message == "schema 0002"
    assert list(evidence.iterdir()) == []
    assert list((registry.root / "home").iterdir()) == []


def test_a_database_that_is_named_nowhere_is_a_warning(monkeypatch):
    for name in ("GATEKEEPER_DATABASE_URI", "MLFLOW_REGISTRY_STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI", raising=False)
    found = check("database")
    assert (found.state, found.service) == (State.WARN, False)
    assert "GATEKEEPER_DATABASE_URI" in found.hint


def test_a_database_that_is_not_there_is_a_service_that_failed(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEKEEPER_DATABASE_URI", f"sqlite:///{tmp_path}/none.db")
    found = check("database")
    assert (found.state, found.service) == (State.FAIL, True)
    assert not (tmp_path / "none.db").exists()


def test_a_database_without_our_tables_needs_an_upgrade(monkeypatch, tmp_path):
    (tmp_path / "empty.db").touch()
    monkeypatch.setenv("GATEKEEPER_DATABASE_URI", f"sqlite:///{tmp_path}/empty.db")
    found = check("database")
    assert (found.state, found.hint) == (State.FAIL, "gatekeeper db upgrade")


@pytest.mark.parametrize(
    ("variable", "value"), [("GATEKEEPER_POLICY", "no-such"), ("GATEKEEPER_MODE", "enforced")]
)
def test_settings_that_keep_the_gate_from_starting_fail(monkeypatch, variable, value):
    monkeypatch.delenv("GATEKEEPER_POLICY", raising=False)
    monkeypatch.setenv(variable, value)
    found = check("policy")
    assert (found.state, found.service) == (State.FAIL, False)
    assert value in found.message
    assert found.hint


def test_a_mode_that_refuses_nothing_is_a_warning(monkeypatch):
    monkeypatch.setenv("GATEKEEPER_MODE", "audit")
    assert check("policy").state is State.WARN


def test_a_server_that_does_not_answer_is_a_service_that_failed(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    found = check("server")
    assert (found.state, found.service) == (State.FAIL, True)
    assert "secret" not in f"{found}"


@pytest.mark.parametrize(
    ("status", "state", "says"),
    [
        (200, State.OK, "the gate is on"),
        (401, State.WARN, "cannot be seen"),  # MLflow's own login answers like this too
        (404, State.WARN, "may not be gated"),
    ],
)
def test_only_the_gates_own_page_shows_that_the_gate_is_on(monkeypatch, status, state, says):
    import requests

    def answer(url, **named):
        made = requests.Response()
        made.status_code = 200 if url.endswith("/health") else status
        return made

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(requests, "get", answer)
    found = check("server")
    assert (found.state, says in found.message) == (state, True)


def test_an_evidence_store_that_takes_nothing_is_a_service_that_failed(monkeypatch, tmp_path):
    blocked = tmp_path / "evidence"
    blocked.write_text("a file where a folder must be")
    monkeypatch.setenv("GATEKEEPER_EVIDENCE", str(blocked))
    found = check("evidence")
    assert (found.state, found.service) == (State.FAIL, True)


def test_a_home_that_cannot_be_made_says_which_variable_to_set(tmp_path):
    (tmp_path / "file").touch()
    found = check("home", tmp_path / "file" / "home")
    assert found.state is State.FAIL
    assert "GATEKEEPER_HOME" in found.hint


def test_a_nearly_full_disk_is_a_warning(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    assert check("home", tmp_path).state is State.WARN


def test_an_mlflow_that_was_not_classed_fails(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "4.0.0")
    found = check("mlflow")
    assert found.state is State.FAIL
    assert "pip install" in found.hint


@pytest.mark.parametrize(
    ("missing", "code"), [(None, 0), ("database", 4), ("policy", 2), ("both", 4)]
)
def test_the_command_ends_by_what_failed_and_prints_one_document(
    registry, monkeypatch, capsys, missing, code
):
    from gatekeeper.cli import main

    scanner = doctor.Check(name="scanner", state=State.OK, message="")
    monkeypatch.setattr(doctor, "_scanner", lambda: scanner)  # its child imports torch
    monkeypatch.setenv("GATEKEEPER_HOME", str(registry.root / "home"))
    if missing in ("database", "both"):
        Path(registry.root, "mlflow.db").unlink()
    if missing in ("policy", "both"):
        monkeypatch.setenv("GATEKEEPER_POLICY", "no-such")
    assert main.status_of(["doctor", "--format", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    failed = [found["name"] for found in document["checks"] if found["state"] == "fail"]
    assert sorted(failed) == {"both": ["database", "policy"]}.get(missing, [missing] * bool(code))
    assert main.status_of(["doctor"]) == code
    shown = capsys.readouterr().out
    assert all(found["name"] in shown for found in document["checks"])
