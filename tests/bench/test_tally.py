"""Rows become tables, pages and a submission; what did not run is counted, never guessed."""

import json
import re
import zipfile
from pathlib import Path

import pytest
import torch
from made_rows import detection_rows, judged, repair_rows, repaired, row
from sklearn.metrics import roc_auc_score

from gatekeeper.bench import tally
from gatekeeper.bench.cliptrace import write_submission
from gatekeeper.bench.detect import Plan
from gatekeeper.bench.rectify import repair_compared, repair_tallies
from gatekeeper.bench.report import files_of, write_report
from gatekeeper.bench.subjects import Images, Subject, Zoo
from gatekeeper.bench.task import Terms


@pytest.fixture(scope="module")
def rows():
    return detection_rows()


def plan_of(rows, out):
    subjects = tuple(
        Subject(
            name=one.model,
            path=Path("models") / one.model,
            kind=one.kind,
            digest=one.digest,
            images=Images(probes=Path("probes"), labels=None),
            attack=one.attack,
            architecture=one.architecture,
        )
        for one in {each.model: each for each in rows}.values()
    )
    methods = tuple(dict.fromkeys(one.method for one in rows))
    zoo = Zoo(name="<b>zoo</b>", digest="sha256:1", subjects=subjects)
    return Plan(zoo=zoo, methods=methods, terms=Terms(), jobs=0, out=out)


def test_a_method_is_tallied_over_all_each_attack_and_each_architecture(rows):
    found = tally.tallies(rows)
    mine = [one for one in found if one.method == "decree"]
    assert [one.group for one in mine] == ["all"] + 5 * ["attack"] + 3 * ["architecture"]
    every = mine[0]
    assert (every.clean, every.planted, every.failed) == (12, 16, 1)
    ran = [r for r in rows if r.method == "decree" and not r.error and r.kind != "adversarial"]
    area = roc_auc_score([r.kind == "planted" for r in ran], [r.result["score"] for r in ran])
    assert every.auc.value == pytest.approx(area)
    assert every.fitted
    assert not next(one for one in found if one.method == "gatekeeper").fitted
    sig = next(one for one in mine if one.name == "sig")
    assert (sig.clean, sig.planted) == (12, 4), "an attack's models against all clean ones"
    vit = next(one for one in mine if one.name == "vit")
    assert (vit.clean, vit.planted) == (4, 6)


def test_a_model_without_a_score_counts_neither_way():
    some = [
        row("detect", "gatekeeper", "a", "clean", judged(0.1, flagged=False, probability=True)),
        row("detect", "gatekeeper", "b", "clean", judged(None, flagged=None, probability=True)),
        row(
            "detect", "gatekeeper", "c", "planted", attack="sig",
            result=judged(0.9, rank=1, cosine=1.0, flagged=True, probability=True, targets=["x"]),
        ),
        row(
            "detect", "gatekeeper", "d", "planted", attack="sig",
            result=judged(None, probability=True, targets=["x"]),
        ),
    ]  # fmt: skip
    found = tally.tally("gatekeeper", "all", "all", some)
    assert found.unanswered == 2
    assert found.auc.value == 1.0
    assert (found.fpr.value, found.fpr.n) == (0.0, 1)
    assert (found.tpr.value, found.tpr.n) == (1.0, 1)
    assert found.top1.value == 0.5, "an unnamed target is a miss"
    assert found.cliptrace == pytest.approx(100 * (0.3 * 0.75 + 0.7 * 0.5)), "no answer: a miss"


def test_a_method_without_a_rule_is_judged_by_a_logistic_of_the_others():
    some = [
        row("detect", "model_xray", f"{kind}{n}", kind, judged(base + n / 10))
        for kind, base in (("clean", 0.0), ("planted", 5.0))
        for n in range(4)
    ]
    called = tally.decisions(some)
    assert all(called[one.model] == (one.kind == "planted") for one in some)


def test_adversarial_models_are_no_backdoors_and_no_clean_ones(rows):
    found = tally.called_backdoors(rows)
    assert found["gatekeeper"].value == 0.0
    assert found["decree"].value == 1.0
    assert tally.tallies(rows)[0].clean == 12


def test_detectors_compare_in_pairs_over_the_same_models(rows):
    found = tally.compared(rows)
    assert set(found) == {"decree", "clip_inspector", "neural_cleanse"}
    assert found["decree"].n == 27, "the model that one of them did not judge is left out"
    assert found["neural_cleanse"].low > 0


def test_images_are_tallied_by_model_and_by_place(rows):
    ours, theirs = tally.image_tallies(rows)
    assert (ours.models, ours.images) == (15, 15 * 32)
    assert ours.auc.value > 0.95
    assert ours.iou.value == pytest.approx(0.5)
    assert ours.located.value == pytest.approx(15 / (15 * 16)), "one of two boxes, of 16 triggers"
    assert theirs.iou is None


def test_repairs_are_tallied_and_compared_in_pairs():
    rows = repair_rows()
    found = {(one.method, one.group, one.name): one for one in repair_tallies(rows)}
    ours = found["gatekeeper", "all", "all"]
    assert ours.models == 8
    assert ours.before["attack_success"].value == pytest.approx(0.97)
    assert ours.after["attack_success"].value < 0.1 < found["par", "all", "all"].a_post.value
    assert ours.robust_gap.value == pytest.approx(ours.after["robust_accuracy"].value - 0.7)
    assert ours.worst["attack_success"] > ours.after["attack_success"].value
    assert ours.worst["robust_gap"] < ours.robust_gap.value < 0
    assert ours.worst["accuracy_change"] < ours.accuracy_change.value
    clean = found["gatekeeper", "clean", "clean models"]
    assert clean.after["attack_success"] is clean.robust_gap is clean.worst["a_post"] is None
    gaps = repair_compared(rows)
    assert gaps["fine_tuning"]["attack_success"].high < 0
    assert gaps["fine_tuning"]["der"].low > 0
    unchanged = [row("rectify", "gatekeeper", "m", "planted", repaired(0.97, 0.8, 0, changed=0))]
    assert repair_tallies(unchanged)[0].unchanged == 1


def test_a_submission_follows_the_challenges_rules(rows, tmp_path):
    mine = [one for one in rows if one.method == "gatekeeper"]
    archive = write_submission(mine, tmp_path)
    with zipfile.ZipFile(archive) as packed:
        told = json.loads(packed.read("predictions.json"))
        inside = set(packed.namelist())
    assert told["version"] == "1.0"
    assert [p["model_id"] for p in told["predictions"]] == sorted(one.model for one in mine)
    for item in told["predictions"]:
        assert set(item) == {"model_id", "label", "embedding_file"}
        assert type(item["label"]) is int
        if item["label"] == 0:
            assert item["embedding_file"] is None
            continue
        assert item["embedding_file"] in inside
        vector = torch.load(tmp_path / item["embedding_file"], weights_only=True)
        assert vector.dtype == torch.float32
        assert vector.norm().item() == pytest.approx(1.0, abs=1e-4)
    assert sum(p["label"] for p in told["predictions"]) >= 14


def test_the_page_of_a_detection_loads_nothing_and_trusts_no_name(rows, tmp_path):
    document = write_report("detect", plan_of(rows, tmp_path), rows, "2026-01-01T00:00:00+00:00")
    page = (tmp_path / "bench.html").read_text()
    assert not re.search(r"(?:src|href)=|url\(|@import|<script", page)
    assert "<b>&lt;b&gt;zoo&lt;/b&gt;</b>" in page
    assert "killed for its memory" in page
    assert page.count("<polyline") == 4
    assert "3,000,000" in page, "what the published settings would cost"
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept == json.loads(json.dumps(document))
    assert kept["schema"] == "gatekeeper.bench/1"
    assert kept["models"][0]["digest"] == "sha256:m00"
    assert {"bench.json", "bench.html", "cliptrace/decree/submission.zip"} <= set(
        files_of(tmp_path)
    )


def test_the_page_of_a_repair_draws_its_return(tmp_path):
    rows = repair_rows()
    write_report("rectify", plan_of(rows, tmp_path), rows, "2026-01-01T00:00:00+00:00")
    page = (tmp_path / "bench.html").read_text()
    assert page.count("<polyline") == 5
    assert "The price of a false alarm" in page
    assert not (tmp_path / "cliptrace").exists()
