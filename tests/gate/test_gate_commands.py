"""`status`, `queue` and `db` on a real database: one document, clear errors, exit codes."""

import json
import os

import pytest
from gate_rows import DIGEST, POLICY, row, verdict

from gatekeeper.cli.main import status_of
from gatekeeper.gate import db


@pytest.fixture
def uri(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("GATEKEEPER_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    found = f"sqlite:///{tmp_path / 'gate.db'}"
    monkeypatch.setenv("GATEKEEPER_DATABASE_URI", found)
    return found


@pytest.fixture
def filled(uri):
    database = db.Database.open(uri, migrate=True)
    with database.begin() as connection:
        number, _ = db.enqueue_job(
            connection, db.JobRequest(row=row(), policy_digest=POLICY.digest, want_alias="prod")
        )
        db.note_artifact(connection, row(), digest=DIGEST, fingerprint="f", kind="clip")
        db.record_decision(connection, verdict("fail"))
        db.add_attempt(
            connection,
            db.Attempt(
                at=db.now_ms(),
                who="alice\x1b[31m",
                action="alias",
                workspace="default",
                name="clip",
                alias_or_stage="prod",
                version=1,
                digest=DIGEST,
                decision="refuse",
                reason="failed",
            ),
        )
    return number


@pytest.mark.usefixtures("filled")
def test_status_prints_one_json_document(capsys):
    assert status_of(["status", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["attempts"][0]["decision"] == "refuse"
    assert told["decisions"][0]["name"] == "clip"
    assert told["policy"]["mode"] == "enforce"


@pytest.mark.usefixtures("filled")
def test_status_of_another_model_is_empty(capsys):
    assert status_of(["status", "--name", "other", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["attempts"] == told["decisions"] == told["jobs"] == []


@pytest.mark.usefixtures("filled")
def test_a_table_obeys_no_escape_sequence(capsys):
    assert status_of(["status"]) == 0
    told = capsys.readouterr().out
    assert "\x1b[31m" not in told
    assert "refuse" in told


def test_the_queue_is_listed_cancelled_and_filled_again(filled, capsys):
    assert status_of(["queue", "list", "--format", "json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)
    assert job["id"] == filled
    assert status_of(["queue", "cancel", str(filled)]) == 0
    assert status_of(["queue", "cancel", str(filled)]) == 2
    assert status_of(["queue", "retry", str(filled)]) == 0
    assert status_of(["queue", "retry", "999"]) == 2
    assert "Hint:" in capsys.readouterr().err


def test_a_database_goes_up_down_and_is_checked(uri, capsys):
    assert status_of(["db", "check"]) == 4
    assert "Hint:" in capsys.readouterr().err
    assert status_of(["db", "upgrade"]) == 0
    assert status_of(["db", "check"]) == 0
    assert status_of(["db", "downgrade", "--yes"]) == 0
    assert status_of(["db", "check"]) == 4
    assert status_of(["db", "current"]) == 0
    assert "schema none" in capsys.readouterr().out


def test_no_database_named_is_bad_usage(uri, capsys, monkeypatch):
    monkeypatch.delenv("GATEKEEPER_DATABASE_URI")
    assert status_of(["status"]) == 2
    assert "GATEKEEPER_DATABASE_URI" in capsys.readouterr().err


def test_an_option_wins_over_the_environment(uri, tmp_path, capsys):
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert status_of(["db", "upgrade", "--database", other]) == 0
    assert (tmp_path / "other.db").is_file()
    assert not (tmp_path / "gate.db").exists()
