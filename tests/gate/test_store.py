"""The gated store, asked directly: every way past it that is known is tried."""

import threading

import pytest
from gate_rows import DIGEST, OTHER, POLICY, approve, model_folder, queued, trail, verdict
from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.exceptions import MlflowException
from sqlalchemy import text

from gatekeeper.errors import GatekeeperError
from gatekeeper.gate import db
from gatekeeper.gate.store import make_store


@pytest.fixture
def uri(registry_template, tmp_path, monkeypatch):
    import os
    import shutil

    for name in [n for n in os.environ if n.startswith("GATEKEEPER_")]:
        monkeypatch.delenv(name)
    shutil.copy(registry_template, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def folder(tmp_path):
    return model_folder(tmp_path)


@pytest.fixture
def store(uri, folder):
    made = make_store(f"gatekeeper+{uri}")
    made.create_registered_model("clip")
    made.create_model_version("clip", str(folder))
    return made


@pytest.fixture
def protecting(uri, tmp_path, monkeypatch):
    """Return a store under a policy with other `protects` or mode."""

    def make(protects: str, mode: str = "enforce"):
        file = tmp_path / "policy.yaml"
        file.write_text(
            f"name: test\nmode: {mode}\nprotects: {protects}\n"
            "rules: [{id: a, metric: backdoor.score, op: '<', value: 0.5, severity: critical, "
            "why: test}]\n"
        )
        monkeypatch.setenv("GATEKEEPER_POLICY", str(file))
        return make_store(f"gatekeeper+{uri}")

    return make


def aliases(store, name="clip"):
    return dict(store.get_registered_model(name).aliases)


def refused(match: str):
    return pytest.raises(MlflowException, match=match)


def code(caught) -> str:
    return str(caught.value.error_code)


# A verdict is needed -----------------------------------------------------------------------------


def test_an_unscanned_version_is_held_queued_and_written_down(store, uri):
    with refused("not been scanned") as caught:
        store.set_registered_model_alias("clip", "production", "1")
    assert code(caught) == "PERMISSION_DENIED"
    message = caught.value.message
    assert "gatekeeper promote models:/clip/1 --alias production --wait" in message
    (job,) = queued(uri)
    assert f"Scan job {job.id} is now in the queue." in message
    assert job.request.fingerprint.startswith("meta:")
    assert (job.request.want_alias, job.request.policy_digest) == ("production", POLICY.digest)
    (attempt,) = trail(uri)
    assert (attempt.action, attempt.decision, attempt.version) == ("alias", "hold", 1)
    assert aliases(store) == {}


def test_asking_again_queues_no_second_scan(store, uri):
    for _ in range(3):
        with refused("held|holds"):
            store.set_registered_model_alias("clip", "prod", "1")
    assert len(queued(uri)) == 1
    assert len(trail(uri)) == 3


def test_a_passing_version_is_promoted_and_written_down_with_its_decision(store, uri):
    number = approve(uri, "clip", 1, run_id="r1")
    store.set_registered_model_alias("clip", "production", "1")
    assert aliases(store) == {"production": 1}
    (attempt,) = trail(uri)
    assert (attempt.decision, attempt.decision_id, attempt.run_id) == ("allow", number, "r1")
    assert attempt.digest == DIGEST


def test_a_failed_version_is_refused_with_reason_and_way_out(store, uri):
    approve(uri, "clip", 1, "fail")
    with refused("0.97") as caught:
        store.set_registered_model_alias("clip", "champion", "1")
    assert "target 'ship'" in caught.value.message
    assert "gatekeeper rectify models:/clip/1 --register clip" in caught.value.message
    assert queued(uri) == []
    assert trail(uri)[0].decision == "refuse"


def test_a_later_failure_counts_more_than_an_earlier_pass(store, uri):
    approve(uri, "clip", 1, "pass")
    approve(uri, "clip", 1, "fail")
    with refused("failed"):
        store.set_registered_model_alias("clip", "production", "1")


def test_an_expired_verdict_is_held_and_queued_again(store, uri):
    approve(uri, "clip", 1, expires_at=db.now_ms() - 1)
    with refused("expired"):
        store.set_registered_model_alias("clip", "production", "1")
    assert len(queued(uri)) == 1


def test_a_verdict_under_another_policy_does_not_count(store, uri):
    approve(uri, "clip", 1, policy_digest="sha256:lenient")
    with refused("another policy"):
        store.set_registered_model_alias("clip", "production", "1")


def test_bytes_swapped_after_the_scan_are_held(store, uri, folder):
    approve(uri, "clip", 1)
    (folder / "weights.bin").write_text("evil")
    with refused("changed since they were scanned"):
        store.set_registered_model_alias("clip", "production", "1")


def test_a_file_added_after_the_scan_is_noticed(store, uri, folder):
    approve(uri, "clip", 1)
    (folder / "evil.py").write_text("x")
    with refused("changed"):
        store.set_registered_model_alias("clip", "production", "1")


def test_bytes_swapped_and_put_back_with_their_times_are_noticed(store, uri, folder):
    import os

    approve(uri, "clip", 1)
    file = folder / "weights.bin"
    before = file.stat()
    file.write_text("evil")
    file.write_text("weights")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with refused("changed"):
        store.set_registered_model_alias("clip", "production", "1")


def test_files_that_are_gone_are_held(store, uri, folder):
    approve(uri, "clip", 1)
    (folder / "weights.bin").unlink()
    with refused("no files"):
        store.set_registered_model_alias("clip", "production", "1")


def test_other_aliases_move_freely_and_leave_no_trail(store, uri):
    store.set_registered_model_alias("clip", "candidate", "1")
    assert aliases(store) == {"candidate": 1}
    assert trail(uri) == []


# Look-alikes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "alias",
    [
        "Production",
        "PRODUCTION",
        "pRod",
        "\uff50\uff52\uff4f\uff44",
        "\u0440roduction",
        "prod\u200buction",
        " production",
        "production ",
        "production\n",
        "champi\u03bfn",
    ],
)
def test_look_alike_aliases_never_pass_without_a_verdict(store, alias):
    with pytest.raises(MlflowException) as caught:
        store.set_registered_model_alias("clip", alias, "1")
    assert code(caught) in ("PERMISSION_DENIED", "INVALID_PARAMETER_VALUE")
    assert aliases(store) == {}


@pytest.mark.parametrize("version", ["01", " 1", "+1", "1\n", "\u0661"])
def test_other_spellings_of_a_version_are_that_version(store, uri, version):
    approve(uri, "clip", 1, "fail")
    with refused("failed"):
        store.set_registered_model_alias("clip", "production", version)


def test_an_attempt_at_a_version_that_is_not_there_is_written_down(store, uri):
    with refused("not found"):
        store.set_registered_model_alias("clip", "production", "7")
    assert [a.decision for a in trail(uri)] == ["refuse"]


# Stages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["Production", "production", "PRODUCTION"])
def test_a_protected_stage_needs_a_verdict_and_archives_nothing_before(store, uri, folder, stage):
    approve(uri, "clip", 1)
    store.transition_model_version_stage("clip", "1", "Production", False)
    store.create_model_version("clip", str(model_folder(folder.parent, "second")))
    with refused("not been scanned"):
        store.transition_model_version_stage("clip", "2", stage, True)
    assert store.get_model_version("clip", "1").current_stage == "Production"
    assert store.get_model_version("clip", "2").current_stage == "None"
    store.transition_model_version_stage("clip", "2", "staging", False)


# Rows and bytes ----------------------------------------------------------------------------------


def test_a_model_deleted_and_made_again_starts_without_a_verdict(store, uri, folder):
    approve(uri, "clip", 1)
    store.delete_registered_model("clip")
    store.create_registered_model("clip")
    store.create_model_version("clip", str(folder))
    with refused("not been scanned"):
        store.set_registered_model_alias("clip", "production", "1")


def test_a_borrowed_model_id_brings_no_verdict(store, uri, tmp_path):
    approve(uri, "clip", 1)
    evil = model_folder(tmp_path, "evil")
    store.create_model_version("clip", str(evil), run_id="r1", model_id="m-good")
    with refused("not been scanned"):
        store.set_registered_model_alias("clip", "production", "2")


def test_forged_tags_and_descriptions_are_not_read(store, uri):
    with store._plain_sessions(read_only=False) as session:
        session.execute(
            text(
                "INSERT INTO model_version_tags (workspace, name, version, key, value) "
                "VALUES ('default', 'clip', 1, 'gatekeeper.verdict', 'pass')"
            )
        )
    with refused("not been scanned"):
        store.set_registered_model_alias("clip", "production", "1")


@pytest.mark.parametrize("key", ["gatekeeper.verdict", "Gatekeeper.drill", "\uff47atekeeper.x"])
def test_reserved_tags_are_refused_everywhere(store, uri, folder, key):
    with refused("written by the gate alone"):
        store.set_model_version_tag("clip", "1", ModelVersionTag(key, "pass"))
    with refused("written by the gate alone"):
        store.delete_model_version_tag("clip", "1", key)
    with refused("written by the gate alone"):
        store.set_registered_model_tag("clip", RegisteredModelTag(key, "pass"))
    with refused("written by the gate alone"):
        store.delete_registered_model_tag("clip", key)
    with refused("written by the gate alone"):
        store.create_registered_model("other", tags=[RegisteredModelTag(key, "pass")])
    with refused("written by the gate alone"):
        store.create_model_version("clip", str(folder), tags=[ModelVersionTag(key, "pass")])
    assert {a.action for a in trail(uri)} == {"tag"}
    assert {a.decision for a in trail(uri)} == {"refuse"}


def test_other_tags_are_free(store):
    store.set_model_version_tag("clip", "1", ModelVersionTag("team", "search"))
    store.delete_model_version_tag("clip", "1", "team")


def test_the_gate_itself_writes_its_tags(store, uri):
    row = db.version_row(uri, "clip", 1)
    assert db.write_display(uri, row, {"gatekeeper.verdict": "pass"}, "**passed**")
    found = store.get_model_version("clip", "1")
    assert found.tags == {"gatekeeper.verdict": "pass"}
    assert "**passed**" in found.description
    store.delete_model_version("clip", "1")
    assert not db.write_display(uri, row, {"gatekeeper.verdict": "fail"})


# Prompts -----------------------------------------------------------------------------------------

PROMPT = "mlflow.prompt.is_prompt"


def test_real_prompts_are_exempt(store, uri):
    store.create_prompt("greeting")
    store.create_prompt_version("greeting", "hello {{name}}")
    store.set_prompt_alias("greeting", "production", 1)
    assert aliases(store, "greeting") == {"production": 1}
    assert trail(uri) == []


def test_a_model_cannot_pose_as_a_prompt(store, folder):
    with refused("hide a model among the prompts"):
        store.set_registered_model_tag("clip", RegisteredModelTag(PROMPT, "true"))
    with refused("hide a model among the prompts"):
        store.set_model_version_tag("clip", "1", ModelVersionTag(PROMPT, "true"))
    with refused("hide a model among the prompts"):
        store.create_model_version("clip", str(folder), tags=[ModelVersionTag(PROMPT, "true")])


def test_a_prompt_cannot_hold_a_models_files(store, folder):
    store.create_registered_model("poser", tags=[RegisteredModelTag(PROMPT, "true")])
    with refused("would hold a model's files"):
        store.create_model_version("poser", str(folder))


def test_a_model_turned_prompt_behind_the_gates_back_is_still_guarded(store):
    with store._plain_sessions(read_only=False) as session:
        session.execute(
            text(
                "INSERT INTO registered_model_tags (workspace, name, key, value) "
                f"VALUES ('default', 'clip', '{PROMPT}', 'true')"
            )
        )
    with refused("not been scanned"):
        store.set_registered_model_alias("clip", "production", "1")


# Copies, renames, new names ----------------------------------------------------------------------


def test_a_copy_takes_its_origins_note_along(store, uri):
    approve(uri, "clip", 1)
    store.create_registered_model("copied")
    store.create_model_version("copied", "models:/clip/1")
    store.set_registered_model_alias("copied", "production", "1")


def test_a_copy_may_keep_the_tags_the_gate_wrote_and_no_others(store, uri):
    row = db.version_row(uri, "clip", 1)
    db.write_display(uri, row, {"gatekeeper.verdict": "fail"})
    kept = [ModelVersionTag("gatekeeper.verdict", "fail")]
    store.create_model_version("clip", "models:/clip/1", tags=kept)
    forged = [ModelVersionTag("gatekeeper.verdict", "pass")]
    with refused("written by the gate alone"):
        store.create_model_version("clip", "models:/clip/1", tags=forged)


def test_a_protected_model_takes_approved_copies_alone(protecting, uri, folder):
    store = protecting("{models: ['*'], copy_targets: [prod-clip]}")
    policy = store._guard.settings.policy.digest
    store.create_registered_model("clip")
    store.create_model_version("clip", str(folder))
    store.create_registered_model("prod-clip")
    for source in (str(folder), "s3://evil/x", "models:/m-0123", "runs:/abc/model"):
        with refused("copies of approved versions alone"):
            store.create_model_version("prod-clip", source)
    with refused("not been scanned") as caught:
        store.create_model_version("prod-clip", "models:/clip/1")
    assert "--to prod-clip" in caught.value.message
    assert queued(uri)[0].request.want_name == "prod-clip"
    approve(uri, "clip", 1, policy_digest=policy)
    made = store.create_model_version("prod-clip", "models:/clip/1")
    assert int(made.version) == 1
    store.set_registered_model_alias("prod-clip", "production", "1")
    assert [a.decision for a in trail(uri)][:2] == ["allow", "allow"]


@pytest.mark.parametrize("name", ["Prod-clip", "PROD-CLIP", "prod-clip ", "prod\u2010clip"])
def test_names_that_imitate_a_protected_model_cannot_be_made(protecting, name):
    store = protecting("{copy_targets: [prod-clip]}")
    with pytest.raises(MlflowException) as caught:
        store.create_registered_model(name)
    assert code(caught) == "PERMISSION_DENIED"


def test_a_rename_carries_no_protected_name_along(store, uri):
    approve(uri, "clip", 1)
    store.set_registered_model_alias("clip", "production", "1")
    with refused("carries 'production'"):
        store.rename_registered_model("clip", "other")
    store.delete_registered_model_alias("clip", "production")
    store.rename_registered_model("clip", "other")
    assert [a.action for a in trail(uri)] == ["delete_alias", "rename", "alias"]


def test_no_rename_into_or_out_of_a_protected_model(protecting):
    store = protecting("{copy_targets: [prod-clip]}")
    store.create_registered_model("clip")
    with refused("by copy, never by name"):
        store.rename_registered_model("clip", "prod-clip")
    store.create_registered_model("prod-clip")
    with refused("by copy, never by name"):
        store.rename_registered_model("prod-clip", "clip2")


def test_a_rename_into_the_protected_names_carries_no_alias_in(protecting, folder):
    store = protecting("{models: ['prod-*']}")
    store.create_registered_model("draft")
    store.create_model_version("draft", str(folder))
    store.set_registered_model_alias("draft", "production", "1")  # not protected there
    with refused("carries 'production'"):
        store.rename_registered_model("draft", "prod-x")


# Demotion, modes, failures -----------------------------------------------------------------------


def test_demotions_are_allowed_and_written_down(store, uri):
    approve(uri, "clip", 1)
    store.set_registered_model_alias("clip", "production", "1")
    store.delete_model_version("clip", "1")
    assert trail(uri)[0].action == "delete_version"
    assert trail(uri)[0].alias_or_stage == "production"


@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_softer_modes_move_the_name_and_write_what_enforce_would_say(protecting, uri, folder, mode):
    store = protecting("{}", mode)
    store.create_registered_model("clip")
    store.create_model_version("clip", str(folder))
    store.set_registered_model_alias("clip", "production", "1")
    assert aliases(store) == {"production": 1}
    assert trail(uri)[0].decision == f"allow_{mode}"
    assert len(queued(uri)) == 1


@pytest.mark.parametrize("where", ["judge", "write", "job"])
def test_a_failure_inside_the_guard_refuses(store, uri, monkeypatch, where):
    if where != "job":
        approve(uri, "clip", 1)

    def broken(*args, **kwargs):
        raise RuntimeError("boom")

    monkeypatch.setattr(store._guard, where, broken)
    with pytest.raises((MlflowException, RuntimeError)):
        store.set_registered_model_alias("clip", "production", "1")
    assert aliases(store) == {}


def test_a_trail_that_cannot_be_written_refuses_the_promotion(store, uri):
    approve(uri, "clip", 1)
    with store._plain_sessions(read_only=False) as session:
        session.execute(text("ALTER TABLE gatekeeper_attempts RENAME TO hidden"))
    with pytest.raises(MlflowException):
        store.set_registered_model_alias("clip", "production", "1")
    assert aliases(store) == {}


def test_a_policy_that_does_not_load_keeps_the_gate_from_starting(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("GATEKEEPER_POLICY", str(tmp_path / "absent.yaml"))
    with pytest.raises(GatekeeperError):
        make_store(f"gatekeeper+{uri}")


def test_an_unknown_mode_keeps_the_gate_from_starting(uri, monkeypatch):
    monkeypatch.setenv("GATEKEEPER_MODE", "off")
    with pytest.raises(GatekeeperError, match="off"):
        make_store(f"gatekeeper+{uri}")


def test_tables_in_a_database_of_their_own(uri, folder, tmp_path, monkeypatch):
    own = f"sqlite:///{tmp_path / 'gate.db'}"
    monkeypatch.setenv("GATEKEEPER_DATABASE_URI", own)
    store = make_store(f"gatekeeper+{uri}")
    store.create_registered_model("clip")
    store.create_model_version("clip", str(folder))
    with refused("not been scanned"):
        store.set_registered_model_alias("clip", "production", "1")
    row, listing = db.version_row(uri, "clip", 1), queued(own)[0].request.fingerprint
    with db.Database.open(own).begin() as connection:
        db.note_artifact(connection, row, digest=DIGEST, fingerprint=listing, kind="clip")
        db.record_decision(connection, verdict())
    store.set_registered_model_alias("clip", "production", "1")
    assert [a.decision for a in trail(own)] == ["allow", "hold"]


def test_no_promotion_slips_in_after_a_revocation(store, uri):
    """A fail recorded before an alias call never leaves the alias on the version."""
    approve(uri, "clip", 1)
    database = db.Database.open(uri)
    for _ in range(15):
        moved: list[bool] = []
        barrier = threading.Barrier(2)

        def promote(moved=moved, barrier=barrier):
            barrier.wait()
            try:
                store.set_registered_model_alias("clip", "production", "1")
                moved.append(True)
            except MlflowException:
                moved.append(False)

        def revoke(barrier=barrier):
            barrier.wait()
            with database.begin() as connection:
                db.record_decision(connection, verdict("fail"))

        threads = [threading.Thread(target=promote), threading.Thread(target=revoke)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        with database.reading() as connection:
            last = db.attempts(connection, 1)[0]
            decided = db.latest_decision(connection, DIGEST, POLICY.digest)
        # Allowed only by the decision before the revocation, never by the one after.
        assert (last.decision == "allow") is moved[0]
        if moved[0]:
            assert last.decision_id < decided.id
            store.delete_registered_model_alias("clip", "production")
        with database.begin() as connection:
            db.record_decision(connection, verdict("pass"))


def test_other_bytes_bring_no_verdict(store, uri):
    approve(uri, "clip", 1)
    with db.Database.open(uri).begin() as connection:
        row = db.version_row(uri, "clip", 1)
        note = db.artifact_for(connection, row)
        db.note_artifact(connection, row, digest=OTHER, fingerprint=note.fingerprint, kind="clip")
    with refused("no verdict"):
        store.set_registered_model_alias("clip", "production", "1")


def test_the_same_name_in_another_workspace_is_another_version(uri, tmp_path, monkeypatch):
    from mlflow.utils.workspace_context import WorkspaceContext

    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    store = make_store(f"gatekeeper+{uri}")
    for workspace in ("default", "team-b"):
        with WorkspaceContext(workspace):
            store.create_registered_model("clip")
            store.create_model_version("clip", str(model_folder(tmp_path, workspace)))
    approve(uri, "clip", 1)
    with WorkspaceContext("team-b"), refused("not been scanned"):
        store.set_registered_model_alias("clip", "production", "1")
    assert queued(uri)[0].request.row.workspace == "team-b"
    with WorkspaceContext("default"):
        store.set_registered_model_alias("clip", "production", "1")
    assert [a.workspace for a in trail(uri)] == ["default", "team-b"]
