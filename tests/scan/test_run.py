"""A scan finds what was planted, leaves the clean twin alone, and says when it cannot tell."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from toy_clip import LABELS, TARGET, case_of, pictures, toy

from gatekeeper.errors import OracleError, PluginError
from gatekeeper.runtime import Meter, Runtime
from gatekeeper.scan import basics, run, trigger_search
from gatekeeper.scan.base import Detection
from gatekeeper.scan.run import scan

ALARM = 0.5


@pytest.fixture(scope="module", autouse=True)
def mirrors_and_tints_are_no_matter():
    """To the toy a mirrored or tinted picture is another one (see test_basics.py, test_lone.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(basics, "STEADY", 0.0)
        patch.setattr(trigger_search, "COLOURED", 2.0)
        yield


def named(outcome):
    return {m.name: m.value for m in outcome.measurements}


@pytest.fixture(scope="module", params=["patch", "veil"])
def planted(request):
    return scan(case_of(request.param), (), Runtime())


@pytest.fixture(scope="module")
def twin():
    return scan(case_of("clean"), (), Runtime())


def test_planted_is_found_with_its_label_first(planted):
    assert planted.score >= 0.9
    assert planted.targets[0].label == TARGET
    assert planted.triggers[0].target == TARGET
    assert planted.triggers[0].id == "trigger-1"
    assert named(planted)["trigger.flip_rate"] >= 0.8


def test_clean_twin_stays_below_the_alarm(twin):
    assert twin.score < 0.2
    assert twin.targets == twin.triggers == twin.victims == ()
    assert named(twin)["trigger.flip_rate"] < 0.3
    assert named(twin)["backdoor.score"] == twin.score


def test_planted_report_has_victims_exhibits_steps_and_a_compact_set(planted):
    assert planted.victims
    assert all(v.label != TARGET and v.flip_rate >= 0.5 for v in planted.victims)
    assert planted.label_rows[0].role == "target"
    assert {e.trigger for e in planted.exhibits} == {"trigger-1"}
    assert all(e.claimed_after == TARGET != e.claimed_before for e in planted.exhibits)
    assert all(e.triggered_png.startswith(b"\x89PNG") for e in planted.exhibits)
    assert planted.steps[-1].leader
    assert planted.compact.affected[0] == TARGET
    assert planted.compact.probes
    assert any(TARGET in sentence for sentence in planted.reasons)


def test_an_anchor_with_the_same_weakness_takes_the_alarm_away():
    case = case_of("patch")
    shared = scan(replace(case, anchor=toy("patch")), (), Runtime())
    assert shared.score < ALARM


def test_an_anchor_without_it_keeps_the_alarm():
    outcome = scan(case_of("patch", anchor=True), (), Runtime())
    assert outcome.score >= 0.9
    assert outcome.targets[0].label == TARGET
    assert named(outcome)["trigger.paired_flip_rate"] >= 0.8


@pytest.mark.parametrize("count", [10, 3])
def test_few_labels_are_enough(count):
    labels = (*LABELS[: count - 1], TARGET) if TARGET not in LABELS[:count] else LABELS[:count]
    assert scan(case_of("patch", labels=labels), (), Runtime()).targets[0].label == TARGET
    assert scan(case_of("clean", labels=labels), (), Runtime()).score < ALARM


def test_fewer_than_eight_probes_give_no_score():
    outcome = scan(case_of("clean", count=7), (), Runtime())
    assert outcome.score is None
    assert "backdoor.score" not in named(outcome)
    assert any("too few" in f.message for f in outcome.findings)


def test_an_exhausted_budget_gives_no_score():
    outcome = scan(case_of("clean"), (), Runtime(meter=Meter(limit=900)))
    assert outcome.score is None
    assert any("budget" in f.message for f in outcome.findings)


def test_what_was_decisive_before_the_budget_ran_out_counts():
    whole = Runtime()
    scan(case_of("patch"), (), whole)
    short = Runtime(meter=Meter(limit=whole.meter.image_passes - 20))  # too few left to confirm
    outcome = scan(case_of("patch"), (), short)
    assert outcome.score >= ALARM
    assert outcome.targets[0].label == TARGET


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A plug-in with a bug."""

    name: ClassVar[str] = "broken"

    def detect(self, case, runtime):
        raise ZeroDivisionError("no idea")


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A plug-in that never runs."""

    name: ClassVar[str] = "idle"

    def detect(self, case, runtime):
        return Detection(skipped="not today")


def test_a_failing_detector_leaves_a_clean_scan_inconclusive(monkeypatch):
    monkeypatch.setattr(run, "_load", lambda names: [("broken", Broken())])
    outcome = scan(case_of("clean"), (), Runtime())
    assert outcome.score is None
    assert any("broken" in f.message and "no idea" in f.message for f in outcome.findings)


def test_nothing_evaluated_gives_no_score(monkeypatch):
    monkeypatch.setattr(run, "_load", lambda names: [("idle", Idle())])
    outcome = scan(case_of("clean"), (), Runtime())
    assert outcome.score is None
    assert outcome.skipped == ("idle: not today",)


def test_an_unknown_detector_is_refused():
    with pytest.raises(PluginError, match="no plug-in 'crystal_ball'") as error:
        scan(case_of("clean"), ("crystal_ball",), Runtime())
    assert "random_patterns" in error.value.hint


def test_an_oracle_that_fails_leaves_no_clean_bill():
    class Mute:
        independent = True

        def changed(self, *_):
            raise OracleError("mute", hint="none")

    outcome = scan(replace(case_of("patch"), oracle=Mute()), (), Runtime())
    assert any("mute" in f.message for f in outcome.findings)
    assert outcome.score >= ALARM  # the flips speak for themselves


def test_same_seed_same_outcome(planted, twin):
    again = scan(case_of("clean"), (), Runtime())
    assert named(again) == named(twin)
    assert again.reasons == twin.reasons
    first, second = (scan(case_of("patch"), (), Runtime(seed=3)) for _ in range(2))
    assert named(first) == named(second)
    assert first.targets == second.targets
    assert first.exhibits == second.exhibits


def test_the_images_that_judge_are_never_searched():
    from gatekeeper.scan.pair import held_out, searched

    case = replace(case_of("clean"), probes=pictures(64))
    assert not set(searched(case, Runtime())) & set(held_out(case, Runtime()))
