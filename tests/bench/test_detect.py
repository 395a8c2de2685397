"""A bench over tiny models: it finds the planted one, resumes, and survives what fails."""

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

from gatekeeper.bench.baselines import catalogue
from gatekeeper.bench.detect import Plan, detect
from gatekeeper.bench.oracle import bench_oracle, oracle_tallies
from gatekeeper.bench.report import write_report
from gatekeeper.bench.subjects import read_zoo
from gatekeeper.bench.tally import image_tallies, tallies
from gatekeeper.bench.task import Terms
from gatekeeper.cli.main import main
from gatekeeper.errors import PluginError

TERMS = Terms(in_process=True, budget=200)


@pytest.fixture(scope="module")
def plan(bench_zoo, tmp_path_factory):
    methods = ("gatekeeper", "model_xray", "gatekeeper_images", "bdetclip")
    zoo = read_zoo(bench_zoo).only(("bad",))
    return Plan(
        zoo=zoo, methods=methods, terms=TERMS, jobs=0, out=tmp_path_factory.mktemp("detect")
    )


@pytest.fixture(scope="module")
def rows(plan):
    return detect(plan)


def test_ours_finds_the_planted_model_and_names_its_target(rows):
    (ours,) = (row for row in rows if row.method == "gatekeeper")
    assert ours.result["flagged"]
    assert ours.result["score"] > 0.5
    assert ours.result["probability"]
    assert ours.result["rank"] == 1
    assert ours.result["cosine"] == pytest.approx(1.0, abs=1e-3), "the image tower alone moved"
    assert ours.image_passes > 100
    assert ours.seconds > 0
    assert ours.peak_rss_mb > 50


@pytest.mark.slow
def test_clean_models_are_not_flagged_and_every_baseline_answers(bench_zoo, tmp_path):
    methods = catalogue.chosen("all", catalogue.MODELS, catalogue.SAMPLES)
    terms = Terms(in_process=True)
    plan = Plan(zoo=read_zoo(bench_zoo), methods=methods, terms=terms, jobs=0, out=tmp_path)
    rows = detect(plan)
    assert not any(row.error for row in rows)
    assert len(rows) == 5 * 3 + 2
    found = {one.method: one for one in tallies(rows) if one.group == "all"}
    assert found["gatekeeper"].auc.value == 1.0
    assert found["gatekeeper"].fpr.value == 0.0
    budgets = {row.result["budget"] for row in rows if "budget" in row.result}
    assert budgets == {0.0, max(r.image_passes for r in rows if r.method == "gatekeeper")}


def test_baselines_keep_to_the_budget(rows):
    assert all(r.image_passes <= 200 for r in rows if r.method == "model_xray")
    assert all(r.result["budget"] == 200 for r in rows if r.method == "model_xray")


def test_image_detectors_see_half_triggered_folders_of_planted_models_only(rows):
    found = {row.method: row for row in rows if row.method in catalogue.SAMPLES}
    assert {row.model for row in found.values()} == {"bad"}
    ours = found["gatekeeper_images"].result
    assert sum(ours["triggered"]) == len(ours["triggered"]) // 2 >= 24
    by_name = {one.method: one for one in image_tallies(rows)}
    assert by_name["gatekeeper_images"].auc.value > 0.8
    assert by_name["gatekeeper_images"].iou.value > 0.3


def test_a_finished_run_is_not_made_again(plan, rows):
    said = []
    assert detect(plan, said.append) == rows
    assert any("were there already" in line for line in said)
    assert not any(line.startswith("[") for line in said)
    other = replace(plan, terms=replace(TERMS, seed=1), methods=("bdetclip",))
    (row,) = detect(other)
    assert row.key not in {one.key for one in rows}


def test_other_bytes_than_the_tables_are_a_row_without_a_figure(plan, tmp_path):
    zoo = plan.zoo.only(("bad",))
    wrong = replace(zoo, subjects=(replace(zoo.subjects[0], digest="sha256:other"),))
    out = replace(plan, zoo=wrong, methods=("bdetclip",), out=tmp_path)
    (row,) = detect(out)
    assert "its zoo says sha256:other" in row.error
    (again,) = detect(out)
    assert again.error, "what failed is tried again, not remembered"


def test_a_run_becomes_tables_a_page_and_a_submission(plan, rows):
    found = {one.method: one for one in tallies(rows) if one.group == "all"}
    assert found["gatekeeper"].auc is None, "no clean model, no curve"
    assert found["gatekeeper"].cliptrace == pytest.approx(100, abs=0.1)
    write_report("detect", plan, rows, "2026-01-01T00:00:00+00:00")
    told = json.loads((plan.out / "cliptrace/gatekeeper/predictions.json").read_text())
    assert {p["model_id"]: p["label"] for p in told["predictions"]} == {"bad": 1}


def test_the_oracle_calls_the_target_absent_and_true_labels_present(plan, tmp_path):
    rows = bench_oracle(replace(plan, methods=("regions",), out=tmp_path))
    (found,) = oracle_tallies(rows)
    assert found.failed == 0
    assert found.false_absent.value <= 0.15
    assert found.auc.value > 0.8
    assert found.target_absent.value > 0.4
    assert found.located.n > 0


def test_the_command_judges_a_users_zoo_and_prints_a_table(bench_zoo, plan, rows, tmp_path):
    shutil.copytree(plan.out / "rows", tmp_path / "rows")
    arguments = ["bench", "detect", str(bench_zoo), "--jobs", "0", "--budget", "200"]
    arguments += ["--only", "bad", "--baselines", "model_xray,bdetclip"]
    arguments += ["--output", str(tmp_path), "--device", "cpu", "--no-mlflow"]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "gatekeeper" in done.stdout
    assert "model_xray" in done.stdout
    assert "gatekeeper ranks 1 planted against 0 clean models" in done.stdout
    assert "1 of 1 results were there already" in done.stderr
    assert "(planted): score" not in done.stderr, "nothing is made again"


def test_an_unknown_baseline_is_refused():
    with pytest.raises(PluginError, match="no method 'voodoo'") as caught:
        catalogue.chosen("voodoo", catalogue.MODELS)
    assert "decree" in caught.value.hint
    with pytest.raises(PluginError, match="is no setting of it"):
        catalogue.build("decree:colour=3", catalogue.MODELS)
    assert catalogue.build("decree:rate=0.1+batch=12", catalogue.MODELS).batch == 12
    assert catalogue.chosen("none", catalogue.REPAIRS) == ("gatekeeper",)
