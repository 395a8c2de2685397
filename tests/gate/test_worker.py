"""One job, one worker, one decision; evidence before it, display after it, and never a guess."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from gate_samples import assessor, repairer

from gatekeeper.errors import EvidenceError, UnsupportedModelError
from gatekeeper.gate import db
from gatekeeper.gate.lease import Lease, Stopped
from gatekeeper.gate.moves import Names, NotMovedError, move
from gatekeeper.gate.worker import run_worker
from gatekeeper.types import Verdict

ALIAS = Names(alias="production")


@pytest.fixture
def tree(tmp_path):
    """Looks like an open_clip local-dir; no test here reads its weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 8}}))
    (folder / "open_clip_model.safetensors").write_bytes(b"not read")
    return folder


def ask(uri="models:/clip/1"):
    """Ask for the alias; return the gate's words, None where it moved."""
    try:
        move(uri, ALIAS)
    except NotMovedError as refusal:
        return refusal.message
    return None


def job_of(shop, number=1):
    with shop.database.reading() as connection:
        return db.job(connection, number)


def decisions_of(shop):
    with shop.database.reading() as connection:
        return db.decisions(connection)


def runs_of(registry):
    experiment = registry.client.get_experiment_by_name("gatekeeper")
    return registry.client.search_runs([experiment.experiment_id])


def test_a_passing_scan_lets_the_alias_move(registry, tree):
    registry.add(tree)
    assert "holds" in ask()
    shop = registry.shop(assess=assessor(Verdict.PASS))
    assert run_worker(shop, once=True).done == 1
    assert ask() is None
    assert registry.alias("clip", "production") == "1"
    (decision,) = decisions_of(shop)
    assert (decision.verdict, decision.policy_digest) == (Verdict.PASS, shop.policy.digest)
    assert job_of(shop).decision_id == decision.id
    assert registry.client.get_run(decision.run_id).info.status == "FINISHED"


def test_a_failing_scan_is_shown_on_the_version_and_refused(registry, tree):
    registry.add(tree)
    registry.client.update_model_version("clip", "1", "My own words.")
    ask()
    shop = registry.shop(assess=assessor(Verdict.FAIL), rectify=repairer(Verdict.FAIL))
    run_worker(shop, once=True)
    assert "refuses" in ask()
    assert registry.alias("clip", "production") is None
    version = registry.client.get_model_version("clip", "1")
    assert version.tags["gatekeeper.verdict"] == "fail"
    assert version.tags["gatekeeper.digest"] == decisions_of(shop)[0].model_digest
    assert version.description.startswith("My own words.")
    assert "Target: **tench**" in version.description
    assert "| alias production | 1 | hold |" in version.description  # the trail
    assert f"runs/{version.tags['gatekeeper.scan_run']}" in version.description


def test_a_cleaned_model_that_passes_becomes_a_version_of_its_own(registry, tree):
    registry.add(tree)
    ask()
    shop = registry.shop(assess=assessor(Verdict.FAIL), rectify=repairer(Verdict.PASS))
    assert run_worker(shop, once=True).done == 1
    assert registry.alias("clip", "production") is None  # nobody accepted it
    assert "a cleaned version is registered" in ask()
    cleaned = registry.client.get_model_version("clip", "2")
    assert cleaned.tags["gatekeeper.rectified_from"] == "models:/clip/1"
    assert cleaned.tags["gatekeeper.verdict"] == "pass"
    names = {path.name for path in registry.stored("clip", "2").iterdir()}
    assert names == {"open_clip_config.json", "open_clip_model.safetensors"}  # the same flavor
    assert (registry.stored("clip", "1") / "open_clip_model.safetensors").read_bytes() == (
        b"not read"
    )
    assert ask("models:/clip/2") is None
    assert registry.alias("clip", "production") == "2"
    first, second = sorted(decisions_of(shop), key=lambda d: d.id)
    assert first.model_digest != second.model_digest
    assert [run.data.tags["gatekeeper.verdict"] for run in runs_of(registry)].count("pass") == 1


def test_a_cleaned_model_that_fails_its_own_scan_is_kept_and_not_registered(registry, tree):
    registry.add(tree)
    ask()
    shop = registry.shop(assess=assessor(Verdict.FAIL), rectify=repairer(Verdict.FAIL))
    run_worker(shop, once=True)
    assert [str(v.version) for v in registry.client.search_model_versions("name='clip'")] == ["1"]
    (repair,) = [r for r in runs_of(registry) if "gatekeeper.rectified_from" in r.data.tags]
    kept = registry.client.list_artifacts(repair.info.run_id, "model")
    assert {item.path for item in kept} >= {"model/open_clip_model.safetensors"}


def test_an_accepted_cleaned_version_gets_the_alias(registry, tree):
    registry.add(tree)
    ask()
    shop = registry.shop(assess=assessor(Verdict.FAIL), rectify=repairer(Verdict.PASS))
    job = job_of(shop)
    from dataclasses import replace

    with shop.database.begin() as connection:
        db.enqueue_job(connection, replace(job.request, accept_rectified=True))
    run_worker(shop, once=True)
    assert registry.alias("clip", "production") == "2"


def test_the_same_bytes_are_not_scanned_twice(registry, tree):
    registry.add(tree)
    registry.add(tree)
    seen = []
    shop = registry.shop(assess=assessor(Verdict.PASS, seen))
    for uri in ("models:/clip/1", "models:/clip/2"):
        assert ask(uri) is not None
        assert run_worker(shop, once=True).done == 1
        assert ask(uri) is None
    assert len(seen) == 1
    assert len(decisions_of(shop)) == 1


def test_forged_tags_are_no_decision(registry, tree):
    """Written past the gate, as only the database's owner can: still nothing reads them."""
    registry.add(tree)
    row = db.version_row(registry.uri, "clip", 1)
    db.write_display(registry.uri, row, {"gatekeeper.verdict": "pass"}, "passed")
    assert "holds" in ask()
    seen = []
    run_worker(registry.shop(assess=assessor(Verdict.PASS, seen)), once=True)
    assert len(seen) == 1


def test_bytes_swapped_after_the_scan_are_held(registry, tree):
    registry.add(tree)
    ask()
    run_worker(registry.shop(assess=assessor(Verdict.PASS)), once=True)
    (registry.stored("clip", "1") / "open_clip_model.safetensors").write_bytes(b"not road")
    assert "changed since they were scanned" in ask()


def test_a_model_that_is_no_clip_is_noted_and_not_scanned(registry, tmp_path):
    folder = tmp_path / "forest"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors:\n  sklearn:\n    pickled_model: model.pkl\n")
    (folder / "model.pkl").write_bytes(b"\x80\x04N.")
    registry.add(folder, "forest")
    assert "holds" in ask("models:/forest/1")
    seen = []
    shop = registry.shop(assess=assessor(Verdict.FAIL, seen))
    assert run_worker(shop, once=True).done == 1
    assert (seen, decisions_of(shop)) == ([], ())
    assert ask("models:/forest/1") is None  # `unrecognised: allow` is the default policy's choice


def test_a_model_that_cannot_be_read_gets_no_decision(registry, tree):
    registry.add(tree)
    ask()

    def unreadable(request, runtime):
        raise UnsupportedModelError("its architecture is not known", hint="use --arch")

    shop = registry.shop(assess=unreadable)
    assert run_worker(shop, once=True).failed == 1
    job = job_of(shop)
    assert (job.status, decisions_of(shop)) == ("failed", ())
    assert "architecture is not known" in job.error
    assert "holds" in ask()


def test_a_crash_decides_nothing_and_is_tried_again_to_the_limit(registry, tree):
    registry.add(tree)
    ask()

    def crashing(request, runtime):
        raise RuntimeError("boom")

    shop = registry.shop(assess=crashing)
    for attempt in (1, 2, 3):
        assert run_worker(shop, once=True).failed == 1
        job = job_of(shop)
        assert (job.attempts, job.status) == (attempt, "queued" if attempt < 3 else "failed")
        assert "RuntimeError: boom" in job.error
        _due(shop)
    assert decisions_of(shop) == ()
    assert "holds" in ask()


def _due(shop):
    """Let the waiting time before the next try pass."""
    from sqlalchemy import update

    from gatekeeper.gate.db import tables

    with shop.database.begin() as connection:
        connection.execute(update(tables.jobs).values(not_before=0))


def test_a_dead_evidence_store_means_no_decision_and_a_report_kept(registry, tree, monkeypatch):
    registry.add(tree)
    ask()
    blocked = registry.root / "evidence"
    blocked.write_text("a file where a folder must be")
    monkeypatch.setenv("GATEKEEPER_EVIDENCE", str(blocked))
    shop = registry.shop(assess=assessor(Verdict.PASS))
    tally = run_worker(shop, once=True)
    assert (tally.failed, tally.services, decisions_of(shop)) == (1, 1, ())
    assert "nothing was decided" in job_of(shop).error
    assert (registry.root / "home" / "unsent" / "job-1" / "report.json").is_file()
    assert "holds" in ask()
    assert "gatekeeper.verdict" not in registry.client.get_model_version("clip", "1").tags


def test_a_repair_whose_evidence_is_lost_is_kept_here_and_registers_nothing(
    registry, tree, monkeypatch
):
    registry.add(tree)
    ask()
    from gatekeeper.gate import repair_job

    def dead(*arguments, **named):
        raise EvidenceError("the server does not answer", hint="start it")

    monkeypatch.setattr(repair_job, "log_rectification", dead)
    shop = registry.shop(assess=assessor(Verdict.FAIL), rectify=repairer(Verdict.PASS))
    assert run_worker(shop, once=True).services == 1
    kept = registry.root / "home" / "unsent" / "job-1-rectified"
    assert (kept / "report.json").is_file()
    assert (kept / "rescan" / "report.json").is_file()
    assert (kept / "model" / "open_clip_model.safetensors").is_file()
    assert str(kept) in job_of(shop).error
    assert [str(v.version) for v in registry.client.search_model_versions("name='clip'")] == ["1"]


def test_a_dead_tracking_store_means_no_decision(registry, tree, monkeypatch):
    registry.add(tree)
    ask()
    from gatekeeper.gate import scan_job

    def dead(*arguments, **named):
        raise EvidenceError("the server does not answer", hint="start it")

    monkeypatch.setattr(scan_job, "log_scan", dead)
    shop = registry.shop(assess=assessor(Verdict.PASS))
    assert run_worker(shop, once=True).services == 1
    assert decisions_of(shop) == ()


def test_a_display_that_fails_does_not_undo_the_decision(registry, tree, monkeypatch):
    registry.add(tree)
    ask()
    shop = registry.shop(assess=assessor(Verdict.PASS), registry_uri="sqlite:////nowhere/x.db")
    assert run_worker(shop, once=True).done == 1
    assert ask() is None


def test_a_worker_with_another_policy_decides_nothing(registry, tree, monkeypatch):
    registry.add(tree)
    ask()
    monkeypatch.setenv("GATEKEEPER_POLICY", "audit")
    shop = registry.shop(assess=assessor(Verdict.PASS))
    assert run_worker(shop, once=True).failed == 1
    assert decisions_of(shop) == ()
    assert "the same GATEKEEPER_POLICY" in job_of(shop).error


def test_evidence_goes_to_the_store_that_the_environment_names(registry, tree, monkeypatch):
    registry.add(tree)
    ask()
    monkeypatch.setenv("GATEKEEPER_EVIDENCE", str(registry.root / "evidence"))
    shop = registry.shop(assess=assessor(Verdict.PASS))
    run_worker(shop, once=True)
    (decision,) = decisions_of(shop)
    stored = (registry.root / "evidence").iterdir().__next__()
    assert decision.evidence_uri == str(stored)
    assert (stored / "report.html").is_file()


# Several workers, and workers that die ----------------------------------------------------------


def test_a_lost_lease_stops_the_work_and_decides_nothing(registry, tree):
    registry.add(tree)
    ask()
    shop = registry.shop()

    def robbed(request, runtime):
        """Another worker takes the job over while this one is in the middle of it."""
        with shop.database.begin() as connection:
            from sqlalchemy import update

            from gatekeeper.gate.db import tables

            connection.execute(update(tables.jobs).values(lease_owner="other"))
        time.sleep(2.0)  # two heartbeats
        return assessor(Verdict.PASS)(request, runtime)

    from dataclasses import replace

    run_worker(replace(shop, assess=robbed), once=True, lease_s=4.0)
    assert decisions_of(shop) == ()
    assert job_of(shop).lease_owner == "other"


def test_a_lease_is_renewed_while_the_work_goes_on(registry, tree):
    registry.add(tree)
    ask()
    shop = registry.shop()
    with shop.database.begin() as connection:
        job = db.claim_job(connection, "me", 3.0)
    with Lease(shop.database, job.id, "me", lease_s=3.0) as lease:
        time.sleep(4.0)
        lease.check()
        with shop.database.begin() as connection:
            assert db.claim_job(connection, "other", 1.0) is None
    time.sleep(3.2)
    with shop.database.begin() as connection:
        assert db.claim_job(connection, "other", 1.0).attempts == 2


def test_told_to_stop_hands_the_job_back_without_counting_the_attempt(registry, tree):
    registry.add(tree)
    ask()
    stop = threading.Event()

    def told(request, runtime):
        stop.set()
        return assessor(Verdict.PASS)(request, runtime)

    shop = registry.shop(assess=told)
    run_worker(shop, once=True, stop=stop)
    job = job_of(shop)
    assert (job.status, job.attempts, decisions_of(shop)) == ("queued", 0, ())


def test_two_workers_never_run_one_job_twice(registry, tmp_path):
    names = [f"clip{i}" for i in range(6)]
    for name in names:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"name": name}}))
        registry.add(folder, name)
        ask(f"models:/{name}/1")
    seen, done = [], []
    shop = registry.shop(assess=assessor(Verdict.PASS, seen))

    def work():
        done.append(run_worker(shop, once=True).done)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(done) == len(names)
    assert len(seen) == len(set(seen)) == len(names)


WORKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from gate_samples import assessor
from gatekeeper.gate.worker import open_workshop, run_worker
from gatekeeper.types import Verdict

def slow(request, runtime):
    print("scanning", flush=True)
    for _ in runtime.progress(range(600), "scanning"):
        time.sleep(0.1)
    return assessor(Verdict.PASS)(request, runtime)

tally = run_worker(replace(open_workshop(device="cpu"), assess=slow), once=True, lease_s=3.0)
print("ended", tally.interrupted, flush=True)
"""


def start_worker():
    """A worker process in the middle of a scan."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, os.path.dirname(__file__)],  # noqa: PTH120
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "scanning\n"
    return process


def test_a_job_whose_worker_was_killed_is_taken_up_by_another(registry, tree):
    registry.add(tree)
    ask()
    process = start_worker()
    shop = registry.shop(assess=assessor(Verdict.PASS))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (job_of(shop).status, job_of(shop).attempts) == ("running", 1)
    assert run_worker(shop, once=True).done in (0, 1)  # not before its lease is over
    deadline = time.monotonic() + 60  # a busy machine; the lease itself is 3 s
    while job_of(shop).status != "done" and time.monotonic() < deadline:
        time.sleep(0.5)
        run_worker(shop, once=True)
    assert (job_of(shop).status, job_of(shop).attempts) == ("done", 2)
    assert len(decisions_of(shop)) == 1
    assert ask() is None


def test_sigterm_hands_the_job_back_at_once(registry, tree):
    registry.add(tree)
    ask()
    process = start_worker()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "ended False\n"
    assert process.wait(timeout=20) == 0
    process.stdout.close()
    job = job_of(registry.shop())
    assert (job.status, job.attempts) == ("queued", 0)


def test_stopped_is_nothing_that_a_detector_could_swallow():
    assert not issubclass(Stopped, Exception)
