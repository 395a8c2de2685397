"""`gatekeeper promote`: what each answer of the gate becomes; names move only when allowed."""

import json
import threading
from dataclasses import replace

import pytest
from click.testing import CliRunner
from gate_samples import SHA, assessor, decision, repairer

from gatekeeper.errors import IntakeError, ServiceError, UnsupportedModelError
from gatekeeper.gate import db
from gatekeeper.gate.db.display import with_block
from gatekeeper.gate.moves import Names, _message
from gatekeeper.gate.promote import Asked, promote
from gatekeeper.gate.state import ScanState, Tables, find_source, from_json, state_of, to_json
from gatekeeper.gate.version_page import MAX_BLOCK, Page, display_block, display_tags, escape
from gatekeeper.gate.worker import run_worker
from gatekeeper.types import Verdict


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 8}}))
    (folder / "open_clip_model.safetensors").write_bytes(b"not read")
    return folder


def asked(**changes):
    return replace(
        Asked(uri="models:/clip/1", names=Names(alias="production"), poll_s=0.1), **changes
    )


def source_of(shop):
    return Tables(
        database=shop.database, registry_uri=shop.registry_uri, policy_digest=shop.policy.digest
    )


def test_without_wait_the_scan_is_queued_and_the_code_is_3(registry, tree):
    registry.add(tree)
    result = promote(asked(), source_of(registry.shop()))
    assert (result.exit_code, result.state.job_id, result.state.job_status) == (3, 1, "queued")
    assert "job 1 is queued" in result.message
    assert registry.alias("clip", "production") is None


@pytest.mark.parametrize(
    ("verdict", "code", "version"),
    [(Verdict.PASS, 0, "1"), (Verdict.FAIL, 1, None), (Verdict.INCONCLUSIVE, 3, None)],
)
def test_a_scan_in_this_process_ends_by_its_verdict(registry, tree, verdict, code, version):
    registry.add(tree)
    shop = registry.shop(assess=assessor(verdict), rectify=repairer(Verdict.FAIL))
    result = promote(asked(wait=True, shop=shop), source_of(shop))
    assert (result.exit_code, result.state.verdict) == (code, str(verdict))
    assert registry.alias("clip", "production") == version
    assert result.run_url


def test_the_cleaned_version_is_offered_but_not_taken(registry, tree):
    registry.add(tree)
    shop = registry.shop(assess=assessor(Verdict.FAIL), rectify=repairer(Verdict.PASS))
    result = promote(asked(wait=True, shop=shop), source_of(shop))
    assert result.exit_code == 1
    assert "--accept-rectified" in result.message
    assert registry.alias("clip", "production") is None


def test_an_accepted_cleaned_version_is_promoted_and_said_so(registry, tree):
    registry.add(tree)
    shop = registry.shop(assess=assessor(Verdict.FAIL), rectify=repairer(Verdict.PASS))
    result = promote(asked(wait=True, shop=shop, accept_rectified=True), source_of(shop))
    assert (result.exit_code, result.uri) == (0, "models:/clip/2")
    assert "models:/clip/1 was refused" in result.message
    assert registry.alias("clip", "production") == "2"


def test_a_worker_elsewhere_is_waited_for(registry, tree):
    registry.add(tree)
    shop = registry.shop(assess=assessor(Verdict.PASS))
    promote(asked(), source_of(shop))
    worker = threading.Thread(target=run_worker, args=(shop,), kwargs={"once": True})
    said = []
    worker.start()
    result = promote(asked(wait=True, timeout_s=120), source_of(shop), say=said.append)
    worker.join()
    assert result.exit_code == 0
    assert registry.alias("clip", "production") == "1"


def test_waiting_ends_with_the_time_and_the_code_is_3(registry, tree):
    registry.add(tree)
    result = promote(asked(wait=True, timeout_s=0.3), source_of(registry.shop()))
    assert result.exit_code == 3
    assert "No decision after" in result.message


def test_a_copy_carries_the_alias(registry, tree):
    registry.add(tree)
    shop = registry.shop(assess=assessor(Verdict.PASS))
    names = Names(alias="production", copy_to="clip-live")
    result = promote(asked(wait=True, shop=shop, names=names), source_of(shop))
    assert (result.exit_code, result.uri) == (0, "models:/clip-live/1")
    assert registry.alias("clip-live", "production") == "1"
    assert registry.alias("clip", "production") is None


def test_a_copy_that_waits_is_the_one_that_is_asked_for_again(registry, tree):
    registry.add(tree)
    shop = registry.shop(assess=assessor(Verdict.PASS))
    names = Names(alias="production", copy_to="clip-live")
    for _ in range(3):
        result = promote(asked(names=names), source_of(shop))
        assert (result.exit_code, result.uri) == (3, "models:/clip-live/1")
        assert result.state.job_status == "queued"
    assert run_worker(shop, once=True).done == 1
    assert promote(asked(names=names), source_of(shop)).exit_code == 0
    assert registry.alias("clip-live", "production") == "1"
    copies = registry.client.search_model_versions("name='clip-live'")
    assert [str(copy.version) for copy in copies] == ["1"]


def test_a_copy_of_what_was_there_before_is_not_taken_for_this_one(registry, tree):
    """A model deleted and made again has the same name and version, and other bytes."""
    registry.add(tree)
    shop = registry.shop(assess=assessor(Verdict.PASS))
    names = Names(alias="production", copy_to="clip-live")
    promote(asked(names=names), source_of(shop))
    registry.client.delete_registered_model("clip")
    (tree / "open_clip_model.safetensors").write_bytes(b"others")
    registry.add(tree)
    assert promote(asked(names=names), source_of(shop)).uri == "models:/clip-live/2"


def test_a_protected_stage_is_asked_for_like_an_alias(registry, tree):
    registry.add(tree)
    shop = registry.shop(assess=assessor(Verdict.PASS))
    result = promote(asked(wait=True, shop=shop, names=Names(stage="Production")), source_of(shop))
    assert result.exit_code == 0
    assert registry.client.get_model_version("clip", "1").current_stage == "Production"


def test_a_scan_that_cannot_be_done_here_says_why(registry, tree):
    registry.add(tree)

    def unreadable(request, runtime):
        raise UnsupportedModelError("its architecture is not known", hint="use --arch")

    shop = registry.shop(assess=unreadable)
    with pytest.raises(UnsupportedModelError, match="architecture"):
        promote(asked(wait=True, shop=shop), source_of(shop))
    assert registry.alias("clip", "production") is None


def test_a_scan_that_failed_elsewhere_is_a_service_that_failed(registry, tree):
    registry.add(tree)
    shop = registry.shop()
    promote(asked(), source_of(shop))
    with shop.database.begin() as connection:
        db.claim_job(connection, "other", 60)

    class Failing:
        def state(self, name, version):
            with shop.database.begin() as connection:
                db.fail_job(connection, 1, "other", "disk is full", retry=False)
            return source_of(shop).state(name, version)

    with pytest.raises(ServiceError, match="disk is full") as caught:
        promote(asked(wait=True), Failing())
    assert caught.value.exit_code == 4


def test_an_unknown_version_is_bad_input(registry, tree):
    registry.add(tree)
    with pytest.raises(IntakeError):
        promote(asked(uri="models:/clip/7"), None)


def test_without_any_source_the_gate_is_asked_again(registry, tree):
    registry.add(tree)
    result = promote(asked(wait=True, timeout_s=0.2), None)
    assert result.exit_code == 3


def test_the_state_of_a_version_survives_json():
    state = ScanState(job_id=3, job_status="running", reasons=("a", "b"), cleaned="models:/c/2")
    assert from_json(json.loads(json.dumps(to_json(state)))) == state
    assert from_json({"job_id": 3, "new_key": 1}) == ScanState(job_id=3)
    assert state.working


def test_nothing_is_known_of_a_version_nobody_asked_for(registry, tree):
    registry.add(tree)
    shop = registry.shop()
    row = db.version_row(registry.uri, "clip", 1)
    assert state_of(shop.database, row, shop.policy.digest) == ScanState()


def test_the_tables_are_read_where_no_server_answers(registry, tree):
    registry.add(tree)
    assert isinstance(find_source(registry.shop().policy.digest), Tables)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["models:/clip/1"], 2),
        (["models:/clip/1", "--alias", "production"], 3),
        (["models:/clip/9", "--alias", "production"], 2),
        (["models:/clip/1", "--alias", "candidate"], 0),
    ],
)
def test_the_command_ends_by_the_contract(registry, tree, monkeypatch, arguments, code):
    from gatekeeper.cli import main

    registry.add(tree)
    with CliRunner().isolation():
        assert main.status_of(["promote", *arguments]) == code


def test_the_gates_own_words_come_through_mlflows_wrapping():
    wrapped = Exception(
        "Failed to create model version copy. PERMISSION_DENIED: gatekeeper holds copy into 'x'."
    )
    assert _message(wrapped) == "gatekeeper holds copy into 'x'."


# The version's page -----------------------------------------------------------------------------


def attempts(count):
    return [
        db.Attempt(
            at=1_767_323_045_000,
            who="alice|<b>",
            action="alias",
            workspace="default",
            name="clip",
            alias_or_stage="production",
            version=1,
            digest=SHA,
            decision="refuse",
            reason="a",
        )
        for _ in range(count)
    ]


def test_the_block_leads_with_the_verdict_and_links_the_report():
    block = display_block(
        Page(
            decision=decision(),
            run_path="#/experiments/1/runs/abc",
            attempts=attempts(3),
            cleaned="models:/my clip/2",
        )
    )
    assert block.startswith("### Gatekeeper: failed, backdoor score 0.97")
    assert "[Report](#/experiments/1/runs/abc/artifacts/report.html)" in block
    assert "[my clip version 2](#/models/my%20clip/versions/2)" in block
    assert block.count("| alias production | 1 | refuse |") == 3
    assert "data:" not in block


def test_names_from_outside_cannot_break_out_of_the_table():
    assert escape("a|b\n<script>[x](y)", 50) == r"a\|b \<script\>\[x\](y)"
    block = display_block(Page(decision=decision(), run_path=None, attempts=attempts(1)))
    assert r"alice\|\<b\>" in block


def test_the_block_stays_small_whatever_it_is_told():
    long = decision(reasons=tuple("x" * 5000 for _ in range(50)))
    block = display_block(Page(decision=long, run_path="#/x", attempts=attempts(50)))
    assert len(block) <= MAX_BLOCK


def test_what_people_wrote_is_kept_whatever_its_length():
    assert with_block("Mine.", "one").startswith("Mine.\n\n<!--")
    twice = with_block(with_block("Mine.", "one") + " After.", "two")
    assert "one" not in twice
    assert twice.startswith("Mine.")
    assert twice.endswith(" After.")
    long = "y" * 4000
    assert with_block(long, "z" * 3000).startswith(long)
    assert len(with_block(long, "z" * 3000)) == 5000
    assert with_block("y" * 4990, "z") == "y" * 4990


def test_the_tags_are_those_of_the_contract():
    tags = display_tags(Page(decision=decision(), run_path=None, rectified_from="models:/clip/1"))
    assert set(tags) == {
        f"gatekeeper.{key}"
        for key in ("verdict", "score", "scan_run", "policy", "digest", "rectified_from")
    }
