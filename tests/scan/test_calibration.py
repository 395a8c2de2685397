"""A score rests on curves that are there, unaltered and rising; else there is no score."""

import json

import pytest
from toy_clip import case_of

from gatekeeper.errors import ScanError
from gatekeeper.runtime import Runtime
from gatekeeper.scan import calibration, score
from gatekeeper.scan.base import Confirmed
from gatekeeper.scan.calibration import FILE, STATISTICS, Evidence, digest_of, read_calibration
from gatekeeper.scan.reasons import compared
from gatekeeper.scan.run import scan


def document():
    return json.loads(FILE.read_text())


def written(tmp_path, changed, *, sealed=True):
    changed.pop("digest", None)
    if sealed:
        changed = {**changed, "digest": digest_of(changed)}
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(changed))
    return file


def test_the_shipped_file_holds_a_rising_curve_for_every_statistic():
    found = read_calibration(FILE)
    for name in STATISTICS:
        for anchored in (False, True):
            curve = found.curve(name, anchored=anchored)
            assert curve.probability(0.0) < 0.3 < 0.5 < curve.probability(1.2)
            assert curve.probability(curve.middle) == pytest.approx(0.5)


def test_the_shipped_middles_lie_between_clean_and_planted():
    for curve in read_calibration(FILE).curves:
        if curve.highest_clean is not None and curve.lowest_planted is not None:
            assert curve.highest_clean < curve.middle < curve.lowest_planted


def test_an_altered_file_is_refused(tmp_path):
    changed = document()
    stated = changed["digest"]
    changed["curves"][0]["middle"] += 0.1
    file = written(tmp_path, changed, sealed=False)
    file.write_text(json.dumps({**changed, "digest": stated}))
    with pytest.raises(ScanError, match="altered") as error:
        read_calibration(file)
    assert "install gatekeeper anew" in error.value.hint


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(schema="gatekeeper.calibration/2"), "schema"),
        (lambda d: d["curves"].pop(), "not one curve a statistic"),
        (lambda d: d["curves"][0].update(width=0.0), "does not rise"),
        (lambda d: d["curves"][0].update(middle=float("nan")), "does not rise"),
        (lambda d: d.pop("models"), "does not hold"),
        (lambda d: d["curves"][0].update(slope=1), "does not hold"),
    ],
)
def test_a_file_that_does_not_hold_what_it_must_is_refused(tmp_path, change, problem):
    changed = document()
    change(changed)
    with pytest.raises(ScanError, match=problem):
        read_calibration(written(tmp_path, changed))


def test_without_a_calibration_there_is_no_scan(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "FILE", tmp_path / "gone.json")
    calibration.shipped.cache_clear()
    try:
        with pytest.raises(ScanError, match="no calibration"):
            scan(case_of("clean"), (), Runtime())
    finally:
        calibration.shipped.cache_clear()


def confirmed(**changes):
    fields = {
        "id": "trigger-1",
        "trigger": None,
        "target": "thing 7",
        "detector": "trigger_search",
        "flip_rate": 0.8,
        "anchor_flip_rate": 0.1,
        "oracle_agrees": 1.0,
    }
    return Confirmed(**fields | changes)


def test_evidence_is_what_exceeds_the_usual():
    found = score.evidence_of(confirmed(usual_flip_rate=0.3))
    assert found == Evidence(
        statistic="trigger", anchored=True, value=pytest.approx(0.5 + score.ORACLE_SHIFT)
    )
    assert score.evidence_of(confirmed(anchor_flip_rate=0.9)).value == 0.0
    assert not score.evidence_of(confirmed(anchor_flip_rate=None)).anchored
    assert score.evidence_of(confirmed(detector="prompt_search")).statistic == "noise"


def test_the_oracle_moves_a_rate_a_little_and_decides_nothing():
    agrees, doubts = (score.evidence_of(confirmed(oracle_agrees=x)).value for x in (1.0, 0.0))
    silent = score.evidence_of(confirmed(judged=False)).value
    assert agrees - silent == pytest.approx(silent - doubts)
    assert agrees - doubts == pytest.approx(2 * score.ORACLE_SHIFT)


def test_weights_that_point_to_the_target_or_to_others_move_a_rate_a_little():
    silent = score.evidence_of(confirmed()).value
    first, tenth, far, last = (
        score.evidence_of(confirmed(behind=x)).value - silent for x in (0.0, 0.1, 0.2, 0.9)
    )
    assert first == pytest.approx(score.LEAN_SHIFT)
    assert tenth == pytest.approx(0.0)
    assert far == last == pytest.approx(-score.LEAN_SHIFT)
    assert score.evidence_of(confirmed(flip_rate=0.1, behind=0.0)).value == 0.0
    noise = confirmed(detector="prompt_search", behind=0.0)
    assert score.evidence_of(noise).value == pytest.approx(silent)


def test_the_score_is_the_largest_probability_and_no_sum():
    found = read_calibration(FILE)
    one = found.score({"trigger": 0.9}, anchored=True)
    assert found.score({"trigger": 0.9, "rise": 0.0, "head": 0.2}, anchored=True) == one
    assert found.score({}, anchored=True) == 0.0


def test_a_score_is_placed_among_clean_models(monkeypatch):
    changed = read_calibration(FILE)
    rows = [
        calibration.KnownModel(
            name=str(i),
            digest=str(i),
            kind=kind,
            family="",
            base="b",
            anchored=True,
            statistics={"trigger": i / 10},
        )
        for i, kind in enumerate(("clean", "clean", "clean", "planted"))
    ]
    known = calibration.Calibration(name="", digest="", curves=changed.curves, models=tuple(rows))
    middle = known.score({"trigger": 0.15}, anchored=True)
    assert known.clean_below(middle, anchored=True) == (2, 3)
    assert known.clean_below(middle, anchored=False) == (0, 0)
    monkeypatch.setattr("gatekeeper.scan.reasons.shipped", lambda: known)
    assert "2 of 3 clean models" in compared(middle, anchored=True)[0]
    assert compared(middle, anchored=False) == compared(None, anchored=True) == ()


def test_an_outcome_names_its_calibration_and_the_evidence_behind_its_score():
    outcome = scan(case_of("patch", anchor=True), (), Runtime())
    values = {m.name: m.value for m in outcome.measurements}
    evidence = {k.removeprefix("evidence."): v for k, v in values.items() if "evidence." in k}
    assert outcome.calibration.digest == document()["digest"]
    assert calibration.shipped().score(evidence, anchored=True) == pytest.approx(outcome.score)
