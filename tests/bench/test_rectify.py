"""Repairs of a planted tiny model, judged with the true trigger; runs are logged and read back."""

import json

import pytest

from gatekeeper.bench.baselines import ours
from gatekeeper.bench.detect import Plan
from gatekeeper.bench.rectify import bench_rectify, repair_tallies
from gatekeeper.bench.report import write_report
from gatekeeper.bench.subjects import read_zoo
from gatekeeper.bench.task import Terms
from gatekeeper.bench.tracking import log_bench
from gatekeeper.errors import IntakeError


@pytest.fixture(scope="module")
def plan(bench_zoo, tmp_path_factory):
    return Plan(
        zoo=read_zoo(bench_zoo).only(("bad",)),
        methods=("gatekeeper", "fine_tuning:batch=8"),
        terms=Terms(in_process=True, budget=100, post_steps=5),
        jobs=0,
        out=tmp_path_factory.mktemp("rectify"),
    )


@pytest.fixture(scope="module")
def rows(plan):
    return bench_rectify(plan)


def test_ours_takes_the_backdoor_away_and_it_stays_away(rows):
    mine, theirs = rows
    assert not mine.error
    assert mine.result["before"]["attack_success"] > 0.9
    assert mine.result["after"]["attack_success"] < 0.1
    assert mine.result["after"]["robust_accuracy"] > 0.6
    assert mine.result["a_post"] < 0.2
    assert mine.result["der"] > 0.9
    assert mine.result["twin"]["attack_success"] < 0.2
    assert mine.result["robust_gap"] == pytest.approx(
        mine.result["after"]["robust_accuracy"] - mine.result["twin"]["robust_accuracy"]
    )
    assert mine.result["method_taken"] in {"compact", "interpolate", "ablate", "negate"}
    assert set(mine.result["checks"]) >= {"rebound", "path", "recovery"}
    assert theirs.method == "fine_tuning:batch=8"
    assert theirs.result["a_post"] >= theirs.result["after"]["attack_success"]
    assert theirs.image_passes <= 100, "the budget holds"
    found = {one.method: one for one in repair_tallies(rows) if one.group == "all"}
    assert found["gatekeeper"].accuracy_change.value > -0.05


def test_a_scan_is_made_once(plan, rows, monkeypatch):
    def scanned(request, runtime):
        raise AssertionError("scanned again")

    (kept,) = (plan.out / "scans").iterdir()
    assert (kept / "report.json").is_file()
    (plan.out / "rows" / "gatekeeper" / "bad.json").unlink()
    monkeypatch.setattr(ours, "assess", scanned)
    again = bench_rectify(plan)[0]
    assert not again.error
    assert again.result["after"] == rows[0].result["after"]


def test_a_zoo_without_planted_models_has_nothing_to_repair(bench_zoo, plan, tmp_path):
    from dataclasses import replace

    clean = replace(plan, zoo=read_zoo(bench_zoo).only(("clean-*",)), out=tmp_path)
    with pytest.raises(IntakeError, match="no planted model"):
        bench_rectify(clean)


def test_a_run_is_logged_with_its_files_and_numbers(plan, rows, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    document = write_report("rectify", plan, rows, "2026-01-01T00:00:00+00:00")
    run = log_bench(plan, document)
    kept = MlflowClient().get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.tags["gatekeeper.bench"] == "rectify"
    assert kept.data.metrics["gatekeeper.after.attack_success"] < 0.1
    assert "fine_tuning-batch-8.der" in kept.data.metrics
    assert plan.zoo.digest in kept.data.params["zoo"]
    told = json.loads((plan.out / "bench.json").read_text())
    assert told["rows"][0]["key"].startswith("sha256:")
