"""The gate's tables: append-only where they must be, one worker per job, on every database."""

import threading
import uuid

import pytest
from gate_rows import DIGEST, OTHER, POLICY, row, verdict
from postgres import fresh_database, running
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from gatekeeper.errors import GateError, ServiceError
from gatekeeper.gate import db
from gatekeeper.gate.db.display import with_block


@pytest.fixture(scope="module")
def postgres():
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def database(request, tmp_path):
    if request.param == "sqlite":
        uri = f"sqlite:///{tmp_path / 'gate.db'}"
    else:
        uri = fresh_database(request.getfixturevalue("postgres"), f"t{uuid.uuid4().hex[:8]}")
    opened = db.Database.open(uri, migrate=True)
    yield opened
    opened.engine.dispose()


def request_for(version: int = 1, **changes) -> db.JobRequest:
    return db.JobRequest(row=row(version=version), policy_digest=POLICY.digest, **changes)


def enqueue(database, *versions: int) -> list[int]:
    with database.begin() as connection:
        return [db.enqueue_job(connection, request_for(version))[0] for version in versions]


def claim(database, owner: str = "one", lease_s: float = 60):
    with database.begin() as connection:
        return db.claim_job(connection, owner, lease_s)


@pytest.mark.parametrize("table", ["decisions", "attempts", "artifacts"])
@pytest.mark.parametrize("change", ["UPDATE {} SET workspace = 'x'", "DELETE FROM {}"])
def test_what_was_appended_cannot_be_changed(database, table, change):
    with database.begin() as connection:
        db.record_decision(connection, verdict())
        db.note_artifact(connection, row(), digest=DIGEST, fingerprint="f", kind="clip")
        db.add_attempt(connection, _attempt())
    with pytest.raises(SQLAlchemyError, match="append-only"), database.begin() as connection:
        connection.execute(text(change.format(f"gatekeeper_{table}")))


def test_the_latest_decision_on_the_same_bytes_and_policy_counts(database):
    with database.begin() as connection:
        db.record_decision(connection, verdict("pass"))
        last = db.record_decision(connection, verdict("fail", run_id="r1"))
        db.record_decision(connection, verdict("pass", model_digest=OTHER))
        db.record_decision(connection, verdict("pass", policy_digest="sha256:other"))
    with database.reading() as connection:
        found = db.latest_decision(connection, DIGEST, POLICY.digest)
        anywhere = db.latest_decision(connection, DIGEST, None)
        assert db.latest_decision(connection, "sha256:none", POLICY.digest) is None
    assert (found.id, found.verdict.value, found.run_id) == (last, "fail", "r1")
    assert found.targets == ("ship",)
    assert anywhere.policy_digest == "sha256:other"


@pytest.mark.parametrize(
    "change",
    [{"creation_time": 1}, {"storage_location": "/evil"}, {"workspace": "b"}, {"name": "Clip"}],
)
def test_a_note_is_for_exactly_one_row(database, change):
    with database.begin() as connection:
        db.note_artifact(connection, row(), digest=OTHER, fingerprint="f", kind="unknown")
        db.note_artifact(connection, row(), digest=DIGEST, fingerprint="g", kind="clip")
    with database.reading() as connection:
        assert db.artifact_for(connection, row()).digest == DIGEST
        assert db.artifact_for(connection, row(**change)) is None


def test_one_open_job_per_row_and_policy(database):
    with database.begin() as connection:
        first, new = db.enqueue_job(connection, request_for(want_alias="prod"))
        again, second_is_new = db.enqueue_job(
            connection, request_for(want_alias="champion", fingerprint="f2")
        )
        other, _ = db.enqueue_job(
            connection, db.JobRequest(row=row(), policy_digest="sha256:other")
        )
    assert new
    assert not second_is_new
    assert first == again != other
    job = claim(database)
    assert (job.request.want_alias, job.request.fingerprint) == ("champion", "f2")


def test_a_running_job_keeps_the_fingerprint_it_was_claimed_with(database):
    with database.begin() as connection:
        db.enqueue_job(connection, request_for(fingerprint="before"))
    claimed = claim(database)
    with database.begin() as connection:
        db.enqueue_job(connection, request_for(fingerprint="after"))
        assert db.job(connection, claimed.id).request.fingerprint == "before"


def test_many_workers_take_each_job_once(database):
    enqueue(database, *range(1, 25))
    taken: list[int] = []
    problems: list[Exception] = []

    def work(owner: str) -> None:
        try:
            while (job := claim(database, owner)) is not None:
                taken.append(job.id)
                with database.begin() as connection:
                    assert db.finish_job(connection, job.id, owner, None)
        except Exception as error:  # noqa: BLE001 - told to the main thread
            problems.append(error)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert len(taken) == len(set(taken)) == 24


def test_an_expired_lease_is_taken_up_and_its_first_owner_can_no_longer_finish(database):
    enqueue(database, 1)
    dead = claim(database, "dead", lease_s=-1)
    alive = claim(database, "alive")
    assert alive.id == dead.id
    assert alive.attempts == 2
    with database.begin() as connection:
        assert not db.heartbeat(connection, dead.id, "dead", 60)
        assert not db.finish_job(connection, dead.id, "dead", None)
        assert db.heartbeat(connection, dead.id, "alive", 60)
        assert db.finish_job(connection, dead.id, "alive", None)


def test_a_live_lease_is_left_alone(database):
    enqueue(database, 1)
    assert claim(database, "one") is not None
    assert claim(database, "two") is None


def test_a_job_whose_workers_die_is_given_up(database):
    (number,) = enqueue(database, 1)
    for _ in range(3):
        assert claim(database, lease_s=-1) is not None
    assert claim(database) is None
    with database.reading() as connection:
        job = db.job(connection, number)
    assert job.status == "failed"
    assert "3 attempts" in job.error
    assert enqueue(database, 1) != [number]  # and can be asked for again


def test_a_failed_job_waits_then_is_tried_again_until_it_is_not(database):
    (number,) = enqueue(database, 1)
    for attempt in range(1, 4):
        job = claim(database)
        assert job.attempts == attempt
        with database.begin() as connection:
            assert db.fail_job(connection, number, "one", "store away", retry_s=0)
    with database.begin() as connection:
        assert db.job(connection, number).status == "failed"
        reopened = db.retry_job(connection, number)
    assert claim(database).id == reopened


def test_a_retry_is_not_immediate(database):
    (number,) = enqueue(database, 1)
    claim(database)
    with database.begin() as connection:
        db.fail_job(connection, number, "one", "store away", retry_s=60)
    assert claim(database) is None


def test_a_cancelled_job_is_lost_to_its_worker(database):
    (number,) = enqueue(database, 1)
    claim(database)
    with database.begin() as connection:
        assert db.cancel_job(connection, number)
        assert not db.cancel_job(connection, number)
        assert not db.heartbeat(connection, number, "one", 60)


def test_an_attempt_of_any_length_is_written_down(database):
    with database.begin() as connection:
        db.add_attempt(connection, _attempt(name="n" * 3000, reason="r" * 100_000))
        (found,) = db.attempts(connection)
    assert len(found.name) == 256


def test_migrations_go_down_and_up_again(database):
    from gatekeeper.gate.db import migrate

    migrate.downgrade(database.engine)
    assert migrate.current(database.engine) is None
    with pytest.raises(ServiceError) as caught:
        migrate.check(database.engine)
    assert "gatekeeper db upgrade" in caught.value.hint
    migrate.upgrade(database.engine)
    migrate.check(database.engine)


def test_a_database_without_drills_takes_their_table_and_keeps_what_it_holds(database):
    from gatekeeper.gate.db import migrate

    with database.begin() as connection:
        db.record_decision(connection, verdict())
    migrate.downgrade(database.engine, "0001")
    assert migrate.current(database.engine) == "0001"
    with pytest.raises(ServiceError, match="revision 0001, expected"):
        migrate.check(database.engine)
    with pytest.raises(SQLAlchemyError, match="append-only"), database.begin() as connection:
        connection.execute(text("DELETE FROM gatekeeper_decisions"))
    migrate.upgrade(database.engine)
    migrate.check(database.engine)
    mark = db.DrillMark(
        digest=OTHER, attack="badnets", target="banana", marked_by="me", marked_at=1
    )
    with database.begin() as connection:
        db.mark_drill(connection, mark)
    with database.reading() as connection:
        assert db.latest_decision(connection, DIGEST, POLICY.digest) is not None
        assert db.drill_mark(connection, row(), OTHER) == mark
        assert db.drill_mark(connection, row(), DIGEST) is None
    with pytest.raises(SQLAlchemyError, match="append-only"), database.begin() as connection:
        connection.execute(text("DELETE FROM gatekeeper_drills"))


def test_the_tables_of_the_migration_are_those_of_the_code(database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from gatekeeper.gate.db.tables import metadata

    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "gatekeeper_alembic_version"}
        )
        assert compare_metadata(context, metadata) == []


def test_a_dropped_trigger_is_noticed_and_put_back(database):
    from gatekeeper.gate.db import migrate

    on = " ON gatekeeper_decisions" if database.engine.dialect.name == "postgresql" else ""
    with database.begin() as connection:
        connection.execute(text(f"DROP TRIGGER gatekeeper_decisions_no_delete{on}"))
    with pytest.raises(ServiceError, match="gatekeeper_decisions_no_delete"):
        migrate.check(database.engine)
    migrate.upgrade(database.engine)
    migrate.check(database.engine)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@db:5432/m?password=x", "postgresql://db:5432/m"),
        ("gatekeeper+postgresql+psycopg://me:s@db/m", "gatekeeper+postgresql+psycopg://db/m"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("./mlruns", "./mlruns"),
    ],
)
def test_no_credentials_are_shown(uri, shown):
    assert db.redacted(uri) == shown


def test_a_missing_database_is_a_service_error_and_is_not_made(tmp_path):
    file = tmp_path / "absent.db"
    with pytest.raises(ServiceError) as caught:
        db.Database.open(f"sqlite:///{file}")
    assert "gatekeeper server" in caught.value.hint
    assert not file.exists()


def test_a_file_store_is_no_database(monkeypatch):
    monkeypatch.delenv("GATEKEEPER_DATABASE_URI", raising=False)
    with pytest.raises(GateError) as caught:
        db.database_uri("./mlruns")
    assert "sqlite:///" in caught.value.hint


def test_the_block_is_replaced_and_the_owners_text_stays():
    once = with_block("mine", "first")
    twice = with_block(once + "\n\nalso mine", "second")
    assert "first" not in twice
    assert twice.startswith("mine\n")
    assert twice.endswith("also mine")
    assert len(with_block("m" * 4000, "b" * 4900)) <= 5000


def _attempt(**changes) -> db.Attempt:
    values = {
        "at": 1,
        "who": None,
        "action": "alias",
        "workspace": "default",
        "name": "clip",
        "alias_or_stage": "production",
        "version": 1,
        "digest": None,
        "decision": "hold",
        "reason": "not scanned",
    }
    return db.Attempt(**(values | changes))
