"""A drill model is refused by every policy, in every mode, whatever the scan says of it."""

import json

import pytest
from gate_rows import DIGEST, OTHER, approve, queued, row, trail, verdict
from gate_samples import assessor
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from test_promotion import facts

from gatekeeper.errors import GateError, ServiceError
from gatekeeper.gate import db
from gatekeeper.gate.db.migrate import HEAD
from gatekeeper.gate.drills import TAG, Drill, DrillDesk, register_drill, remove
from gatekeeper.gate.promotion import Mode, Outcome, decide
from gatekeeper.gate.worker import run_worker
from gatekeeper.types import Verdict

DRILL = Drill(attack="badnets", target="banana", seed=3)
MARK = db.DrillMark(digest=DIGEST, attack="badnets", target="banana", marked_by="me", marked_at=1)


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 8}}))
    (folder / "open_clip_model.safetensors").write_bytes(b"not read")
    return folder


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("kind", ["pass", "fail", "inconclusive", None])
def test_no_verdict_and_no_mode_lets_a_drill_move(mode, kind):
    decision = None if kind is None else verdict(kind)
    answer = decide(facts(mode=mode, decision=decision, drill=MARK))
    assert answer.outcome is Outcome.REFUSE
    assert not answer.moves
    assert answer.written == "refuse"
    assert "drill model" in answer.reason
    assert "'banana'" in answer.reason
    assert answer.next_step == ""


def test_a_drill_is_scanned_all_the_same():
    """Else a fire drill would only ever meet its own mark."""
    assert decide(facts(note=None, decision=None, drill=MARK)).queue
    assert not decide(facts(drill=MARK)).queue


def test_the_refusal_tells_what_the_scan_alone_would_have_done():
    passed = decide(facts(drill=MARK))
    failed = decide(facts(decision=verdict("fail"), drill=MARK))
    assert "alone would let it through" in passed.reason
    assert "would be refused too: the scan failed it" in failed.reason


def test_a_mark_is_found_by_digest_place_and_descent(registry):
    database = db.Database.open(registry.uri)
    with database.begin() as connection:
        db.mark_drill(connection, MARK)
        placed = db.DrillMark(
            digest="sha256:x",
            attack="a",
            target="t",
            marked_by="m",
            marked_at=1,
            storage_location="/drills/1",
        )
        db.mark_drill(connection, placed)
        db.note_rectified(
            connection, row(version=2), digest=OTHER, from_digest=DIGEST, decision_id=None
        )
        assert db.drill_mark(connection, row(), DIGEST) == MARK
        assert db.drill_mark(connection, row(), OTHER) == MARK, "a cleaned drill is a drill"
        assert db.drill_mark(connection, row(storage_location="/drills/1"), None) == placed
        assert db.drill_mark(connection, row(), "sha256:none") is None
        assert db.drill_mark(connection, row(storage_location=""), None) is None


@pytest.mark.parametrize("mode", ["enforce", "warn", "audit"])
def test_a_registered_drill_is_refused_before_and_after_a_passing_scan(
    registry, tree, tmp_path, monkeypatch, mode
):
    from gatekeeper.policy.schema import shipped_policies

    text = shipped_policies()["default"].read_text().replace("mode: enforce", f"mode: {mode}")
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)
    monkeypatch.setenv("GATEKEEPER_POLICY", str(policy))
    made = register_drill(tree, "clip-drill", DRILL, DrillDesk.open())
    client = MlflowClient()
    with pytest.raises(MlflowException, match="drill model"):
        client.set_registered_model_alias("clip-drill", "production", "1")
    assert [job.request.row.name for job in queued(registry.uri)] == ["clip-drill"]
    assert run_worker(registry.shop(assess=assessor(Verdict.PASS)), once=True).done == 1
    with pytest.raises(MlflowException, match="alone would let it through"):
        client.set_registered_model_alias("clip-drill", "production", "1")
    assert registry.alias("clip-drill", "production") is None
    assert {a.decision for a in trail(registry.uri)} == {"refuse"}
    version = client.get_model_version("clip-drill", "1")
    assert version.tags[TAG] == "badnets: banana"
    assert "DRILL MODEL" in version.description
    remove(made, client)
    assert not client.search_model_versions("name = 'clip-drill'")


def test_the_same_bytes_under_another_name_are_a_drill_once_they_are_known(registry, tree):
    register_drill(tree, "clip-drill", DRILL, DrillDesk.open())
    registry.add(tree, "clip")
    run_worker(registry.shop(assess=assessor(Verdict.PASS)), once=True)
    from gatekeeper.intake.digest import tree_digest

    approve(registry.uri, "clip", 1, model_digest=tree_digest(tree)[0])
    with pytest.raises(MlflowException, match="drill model"):
        registry.client.set_registered_model_alias("clip", "production", "1")


def test_without_the_gates_tables_nothing_is_registered(registry, tree, monkeypatch):
    for name in ("GATEKEEPER_DATABASE_URI", "MLFLOW_REGISTRY_STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(GateError, match="not said"):
        DrillDesk.open()
    assert not registry.client.search_registered_models()


def test_with_another_registrys_tables_the_version_is_taken_back(registry, tree, tmp_path):
    import shutil

    other = tmp_path / "other.db"
    shutil.copy(registry.root / "mlflow.db", other)
    desk = DrillDesk.open()
    away = DrillDesk(database=desk.database, registry_uri=f"sqlite:///{other}", client=desk.client)
    with pytest.raises(ServiceError, match="taken back"):
        register_drill(tree, "clip-drill", DRILL, away)
    assert not registry.client.search_model_versions("name = 'clip-drill'")


def test_a_database_of_the_release_before_is_upgraded_and_back(registry):
    from gatekeeper.gate.db import downgrade, state_of_schema

    downgrade(registry.uri, "0001")
    assert state_of_schema(registry.uri).revision == "0001"
    with pytest.raises(ServiceError, match="db upgrade"):
        db.Database.open(registry.uri)
    db.Database.open(registry.uri, migrate=True)
    assert state_of_schema(registry.uri).revision == HEAD == "0002"
