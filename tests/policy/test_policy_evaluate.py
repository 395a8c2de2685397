"""One policy over one scan: the order in which a verdict is made, and what is never a pass."""

import json
import os
import socket
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatekeeper.errors import PolicyError
from gatekeeper.policy import expectations
from gatekeeper.policy.document import parse_document
from gatekeeper.policy.evaluate import evaluate
from gatekeeper.policy.schema import build_policy, load_policy
from gatekeeper.types import Severity, Verdict

CLEAN = {
    "static.unsafe_load": 0.0,
    "static.malformed_file": 0.0,
    "static.altered_settings": 0.0,
    "backdoor.score": 0.02,
    "trigger.flip_rate": 0.03,
}


def policy_of(*rules, min_probes=4):
    told = [
        {
            "id": f"r{i}",
            "metric": metric,
            "op": op,
            "value": value,
            "severity": severity,
            "why": "w",
        }
        for i, (metric, op, value, severity) in enumerate(rules)
    ]
    document = {"name": "p", "rules": told, "evidence": {"min_probes": min_probes}}
    return build_policy(parse_document(json.dumps(document)))


def judged(measurements, probes=64, **more):
    return evaluate(load_policy(), measurements, probes=probes, **more)


def test_a_clean_scan_passes():
    told = judged(CLEAN)
    assert told.verdict is Verdict.PASS
    assert all(rule.ok for rule in told.rules)
    assert told.reasons == ("All 4 critical rules hold.",)


def test_a_broken_critical_rule_fails_and_says_why_first():
    told = judged(
        CLEAN | {"backdoor.score": 0.97, "trigger.flip_rate": 0.9},
        explain={"backdoor.score": "A patch leads 96 % of images to 'banana'."},
    )
    assert told.verdict is Verdict.FAIL
    assert told.reasons[0] == (
        "A patch leads 96 % of images to 'banana'. backdoor.score is 0.97, rule no-backdoor asks "
        "for at most 0.5."
    )
    assert told.reasons[1].startswith("Warning: trigger.flip_rate")


def test_a_broken_warning_does_not_decide():
    told = judged(CLEAN | {"trigger.flip_rate": 0.9})
    assert told.verdict is Verdict.PASS
    assert told.rules[-1].severity is Severity.WARNING
    assert not told.rules[-1].ok
    assert any(reason.startswith("Warning:") for reason in told.reasons)


@pytest.mark.parametrize("name", [n for n in CLEAN if n != "trigger.flip_rate"])
def test_a_missing_measurement_fails_its_rule(name):
    told = judged({k: v for k, v in CLEAN.items() if k != name})
    assert told.verdict is Verdict.FAIL
    broken = [rule for rule in told.rules if not rule.ok]
    assert [rule.metric for rule in broken] == [name]
    assert broken[0].observed is None
    assert "was not measured" in told.reasons[0]


def test_an_empty_scan_is_no_pass():
    assert judged({}).verdict is Verdict.FAIL
    assert judged({}, probes=0).verdict is Verdict.INCONCLUSIVE
    assert judged({}, evaluated=False).verdict is Verdict.INCONCLUSIVE
    assert judged({}, static_only=True).verdict is Verdict.INCONCLUSIVE


def test_too_few_probes_is_inconclusive_whatever_the_score():
    for score in (0.02, 0.97):
        told = judged(CLEAN | {"backdoor.score": score}, probes=31, embedded=True)
        assert told.verdict is Verdict.INCONCLUSIVE
        assert told.reasons[0] == (
            "31 embedded probe images evaluated, the policy asks for at least 32."
        )
    assert judged(CLEAN, probes=32).verdict is Verdict.PASS


def test_a_scan_that_stopped_is_inconclusive():
    told = judged(CLEAN, evaluated=False)
    assert told.verdict is Verdict.INCONCLUSIVE
    assert "did not run to its end" in told.reasons[0]


def test_a_hostile_file_fails_without_a_single_probe():
    told = judged(
        {"static.unsafe_load": 1.0, "static.malformed_file": 0.0, "static.altered_settings": 0.0},
        probes=0,
        evaluated=False,
    )
    assert told.verdict is Verdict.FAIL
    assert told.reasons[0].startswith("static.unsafe_load is 1")
    assert "backdoor.score" not in " ".join(told.reasons)  # a consequence, not a charge


def test_notes_come_last_with_every_verdict():
    for measured in (CLEAN, CLEAN | {"backdoor.score": 0.9}, {}):
        assert judged(measured, notes=("Embedded probes were used.",)).reasons[-1] == (
            "Embedded probes were used."
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), True])
def test_what_is_no_finite_number_is_refused_before_anything_is_judged(value):
    with pytest.raises(PolicyError, match=r"backdoor\.score") as refused:
        judged(CLEAN | {"backdoor.score": value})
    assert refused.value.hint


def test_a_measurement_that_no_rule_can_name_changes_nothing():
    assert judged(CLEAN | {"plugin.figure": 7.0}).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("op", "good", "bad"),
    [
        ("<=", [0.4, 0.5], [0.500001]),
        ("<", [0.4, 0.499999], [0.5, 0.6]),
        (">=", [0.5, 0.6], [0.499999]),
        (">", [0.500001], [0.5, 0.4]),
        ("==", [0.5], [0.499999, 0.500001]),
    ],
)
def test_each_operator_at_its_edge(op, good, bad):
    policy = policy_of(("clean.accuracy", op, 0.5, "critical"))
    for value in good:
        assert evaluate(policy, {"clean.accuracy": value}, probes=4).verdict is Verdict.PASS
    for value in bad:
        assert evaluate(policy, {"clean.accuracy": value}, probes=4).verdict is Verdict.FAIL


def test_rules_that_ask_the_same_are_all_answered():
    policy = policy_of(
        ("backdoor.score", "<=", 0.5, "critical"),
        ("backdoor.score", "<=", 0.5, "warning"),
        ("backdoor.score", "<=", 0.1, "warning"),
        ("backdoor.score", ">=", 0.0, "critical"),
    )
    told = evaluate(policy, {"backdoor.score": 0.3}, probes=4)
    assert [rule.ok for rule in told.rules] == [True, True, False, True]
    assert told.verdict is Verdict.PASS


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.floats(min_value=-1e6, max_value=1e6),
    st.sampled_from(["<=", "<", ">=", ">", "=="]),
    st.floats(min_value=-1e6, max_value=1e6),
)
def test_great_expectations_agrees_with_arithmetic(value, op, bound):
    policy = policy_of(("head.direction", op, bound, "critical"))
    told = evaluate(policy, {"head.direction": value}, probes=4)
    holds = {
        "<=": value <= bound,
        "<": value < bound,
        ">=": value >= bound,
        ">": value > bound,
        "==": value == bound,
    }[op]
    assert told.rules[0].ok is holds


def test_same_scan_same_validation_and_nothing_is_written_or_sent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    first, second = judged(CLEAN), judged(dict(reversed(CLEAN.items())))
    assert json.dumps(first.validation) == json.dumps(second.validation)
    assert first.validation["success"] is True
    assert list(tmp_path.iterdir()) == []
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"


def test_an_engine_that_fails_gives_no_verdict(monkeypatch):
    class Broken:
        def get_context(self, mode, project_config):
            raise RuntimeError("no context today")

    monkeypatch.setattr(expectations, "great_expectations", Broken)
    with pytest.raises(PolicyError, match="no context today") as refused:
        expectations.run_suite("policy", None, [])
    assert "nothing was decided" in refused.value.hint


def test_an_expectation_that_raised_gives_no_verdict():
    flat = {"results": [{"exception_info": {"raised_exception": True, "exception_message": "x"}}]}
    keyed = {"results": [{"exception_info": {"id": flat["results"][0]["exception_info"]}}]}
    for raw in (flat, keyed):
        with pytest.raises(PolicyError, match="could not evaluate"):
            expectations._refuse_exceptions(raw)


def test_an_answer_that_is_missing_gives_no_verdict(monkeypatch):
    real = expectations.run_suite

    def forgetful(*args):
        raw = real(*args)
        return raw | {"results": raw["results"][1:]}

    monkeypatch.setattr(expectations, "run_suite", forgetful)
    with pytest.raises(PolicyError, match="no answer"):
        judged(CLEAN)
