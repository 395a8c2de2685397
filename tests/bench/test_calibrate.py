"""Curves fitted on known models part clean from planted, and say no more than there is to say."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gatekeeper.bench.calibrate import PRIOR, calibrated, expected_error, fit, judged, measured
from gatekeeper.bench.known import read_known
from gatekeeper.errors import EvidenceError
from gatekeeper.scan.calibration import KnownModel, digest_of


def model(name, kind, family="", anchored=True, **statistics):
    return KnownModel(
        name=name,
        digest=f"sha256:{name}",
        kind=kind,
        family=family,
        base="b",
        anchored=anchored,
        statistics=statistics,
    )


def population(clean=40, planted=12, seed=0):
    draw = np.random.default_rng(seed)
    rows = [
        model(f"c{i}", "clean", trigger=float(draw.beta(1, 12)), rise=float(draw.beta(1, 60)))
        for i in range(clean)
    ]
    for i in range(planted):
        family = ("patch", "blend", "warp")[i % 3]
        found = float(draw.uniform(0.65, 1.0))
        rows.append(model(f"p{i}", "planted", family, trigger=found, rise=float(draw.beta(1, 9))))
    return rows


def curve(rows, name="trigger"):
    return next(c for c in fit(rows, anchored=True) if c.statistic == name)


def test_the_middle_lies_between_the_highest_clean_and_the_lowest_planted():
    rows = population()
    found = curve(rows)
    assert found.fitted
    assert found.highest_clean < found.middle < found.lowest_planted
    assert found.probability(found.highest_clean) < 0.5 < found.probability(found.lowest_planted)


def test_few_models_give_a_gentler_slope_than_many():
    few, many = population(6, 3), population(400, 120)
    sure = [curve(rows).probability(0.9) for rows in (few, many)]
    assert sure[0] < sure[1] < 1
    assert curve(few).width > curve(many).width


def test_a_statistic_that_no_planted_model_needed_keeps_its_prior_curve():
    noise = curve(population(), "noise")
    assert not noise.fitted
    assert (noise.middle, noise.width) == pytest.approx(PRIOR["noise"], rel=0.05)


def test_a_planted_model_needs_one_statistic_alone():
    rows = population()
    marked = [model(f"m{i}", "planted", "text", trigger=0.05, mark=0.9) for i in range(4)]
    before, after = curve(rows), curve(rows + marked)
    assert after.middle == pytest.approx(before.middle, abs=0.05)  # not dragged to 0.05
    assert curve(rows + marked, "mark").fitted


def test_overlapping_models_are_fitted_too():
    rows = [*population(), model("odd", "clean", trigger=0.9)]
    found = curve(rows)
    assert 0.1 < found.middle < 1.5
    assert found.probability(0.05) < 0.5


def test_without_either_kind_the_prior_stands():
    found = fit([r for r in population() if r.kind == "clean"], anchored=True)
    assert [(c.middle, c.width) for c in found] == [PRIOR[c.statistic] for c in found]


def test_figures_are_out_of_sample_and_by_family():
    found = measured(population())
    assert set(found["families"]) == {"patch", "blend", "warp"}
    assert found["leave_one_model_out"]["auroc"] == 1.0
    assert found["leave_one_family_out"]["planted"] == 12
    assert found["leave_one_model_out"]["accused"] == 0.0
    assert measured([]) == {}


def test_calibration_error_is_that_of_the_bins():
    assert expected_error([False, True], [0.0, 1.0]) == 0.0
    assert expected_error([False, False], [0.9, 0.9]) == pytest.approx(0.9)
    rows = [model("a", "clean"), model("b", "planted", "patch")]
    assert judged(rows, [0.6, 0.4]).accused == 1.0


def test_the_document_carries_its_own_digest_and_both_ways():
    rows = population()
    alone = [replace(r, anchored=False) for r in rows]
    document = calibrated(rows + alone, "52 models")
    stated = document.pop("digest")
    assert stated == digest_of(json.loads(json.dumps(document)))
    assert document["measured"]["alone"]["leave_one_model_out"]["clean"] == 40
    assert len(document["models"]) == 2 * len(rows)


def row(folder, name, **changes):
    fields = {
        "bench": "detect",
        "method": "gatekeeper",
        "model": name,
        "digest": f"sha256:{name}",
        "kind": "clean",
        "family": "",
        "base": "b",
        "error": "",
        "result": {"score": 0.1, "evidence": {"trigger": 0.2, "odd": 1.0}, "anchored": True},
    } | changes
    file = folder / f"{name}.json"
    file.write_text(json.dumps(fields))


def test_bench_rows_are_read_and_what_is_left_out_is_told(tmp_path):
    row(tmp_path, "fine")
    row(tmp_path, "old", result={"score": 0.1})
    row(tmp_path, "mute", result={"score": None, "evidence": {}})
    row(tmp_path, "noise", kind="adversarial")
    row(tmp_path, "theirs", method="decree")
    found, left = read_known([tmp_path])
    assert [(m.name, dict(m.statistics), m.anchored) for m in found] == [
        ("fine", {"trigger": 0.2}, True)
    ]
    assert sum(left.values()) == 3
    assert left["no answer"] == 1


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(EvidenceError, match="no scan of a known model"):
        read_known([tmp_path])
