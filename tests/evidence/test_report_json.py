"""`report.json` comes back as it went, is stable, and nothing else is taken for it."""

import json
import math
import string
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import report_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from gatekeeper.errors import EvidenceError, GatekeeperError
from gatekeeper.evidence import report_json
from gatekeeper.evidence.records import dumps, loads
from gatekeeper.evidence.report_json import SCHEMA, from_json, read_report, to_json
from gatekeeper.types import (
    Check,
    CurvePoint,
    Finding,
    Proof,
    Quality,
    ScanReport,
    Severity,
    Target,
    Verdict,
)

anything = st.text(st.characters(), max_size=30)  # lone surrogates among them
rate = st.floats(0, 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | finite | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=3),
    max_leaves=8,
)
reports = st.builds(
    replace,
    st.sampled_from([make() for make in samples.ALL.values()]),
    verdict=st.sampled_from(Verdict),
    score=st.none() | rate,
    reasons=st.lists(anything, max_size=3).map(tuple),
    targets=st.lists(
        st.builds(Target, label=anything, score=finite, flip_rate=rate, detector=anything),
        max_size=2,
    ).map(tuple),
    findings=st.lists(
        st.builds(
            Finding,
            id=anything,
            kind=anything,
            severity=st.sampled_from(Severity),
            message=anything,
            evidence=st.dictionaries(anything, plain, max_size=3),
        ),
        max_size=2,
    ).map(tuple),
    measurements=st.dictionaries(st.text(string.ascii_lowercase, max_size=8), finite, max_size=4),
    seed=st.integers(0, 2**63),
)


@settings(max_examples=60, deadline=None)
@given(reports)
def test_a_report_comes_back_as_it_went(report):
    text = to_json(report)
    assert from_json(text) == report
    assert to_json(from_json(text)) == text
    text.encode("utf-8")  # no lone surrogate
    assert not any((ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 for c in text)


@settings(max_examples=30, deadline=None)
@given(reports)
def test_every_report_is_valid_under_the_published_schema(report):
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(to_json(report)))


def test_published_schema_is_the_one_in_use_and_names_the_contract_s_keys():
    published = json.loads((Path(report_json.__file__).parent / "report.schema.json").read_text())
    assert published == json.loads(json.dumps(SCHEMA))
    jsonschema.Draft202012Validator.check_schema(published)
    wanted = (
        "verdict score reasons targets victims triggers suspects findings measurements rules "
        "model anchor policy probes oracle calibration cost environment seed started finished "
        "schema before after"
    )
    # `proof` is ours: the contract names no place for what a repair was put through
    assert set(published["properties"]) == {*wanted.split(), "proof"}


def test_keys_stand_in_the_contract_s_order():
    assert list(json.loads(to_json(samples.failing())))[:4] == [
        "schema",
        "verdict",
        "score",
        "reasons",
    ]


def test_before_and_after_of_a_repair_are_kept():
    before, after = samples.quality()
    proof = Proof(
        checks=(at_fault := Check(
            id="path", what="Way back", before=0.0, after=0.1, op=">=", limit=0.2, n=40, ok=False
        ),),
        rebound=(CurvePoint(at=300, attack_success=0.02),), path=(), images=40,
    )  # fmt: skip
    text = to_json(samples.failing(), before=before, after=after, proof=proof)
    stored = read_report(text)
    assert (stored.before, stored.after, stored.proof) == (before, after, proof)
    assert stored.proof.failed == (at_fault,)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))
    assert read_report(to_json(samples.failing())).before is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_never_written(bad):
    with pytest.raises(EvidenceError, match=r"report\.measurements\.x") as refused:
        to_json(replace(samples.failing(), measurements={"x": bad}))
    assert refused.value.exit_code == 4
    with pytest.raises(EvidenceError, match="after"):
        to_json(samples.failing(), after=replace(samples.quality()[1], rebound=bad))


def _changed(**changes):
    return json.dumps(json.loads(to_json(samples.failing())) | changes)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON"),
        ("[]", "schema"),
        ("{}", "schema"),
        (_changed(schema="gatekeeper.report/2"), "schema"),
        (_changed(extra=1), "extra"),
        (_changed(verdict="maybe"), "verdict"),
        (_changed(score="0.5"), "score"),
        (_changed(score=True), "score"),
        (_changed(seed=1.5), "seed"),
        (_changed(reasons="text"), "reasons"),
        (_changed(reasons=[1]), r"reasons\[0\]"),
        (_changed(model={"uri": "x"}), r"model\.digest"),
        (_changed(victims=[{"label": "x", "flip_rate": 1.2}]), "fraction"),
        (_changed(measurements={"a": None}), r"measurements\.a"),
        (to_json(samples.failing()).replace("0.9731", "NaN"), "finite"),
        (to_json(samples.failing()).replace("0.9731", "1e999"), "finite"),
        ('{"schema": "gatekeeper.report/1", "schema": "gatekeeper.report/1"}', "twice"),
        ("[" * 200_000, "no JSON"),
    ],
)
def test_what_is_no_such_report_is_refused(text, problem):
    with pytest.raises(GatekeeperError, match=problem) as refused:
        from_json(text, origin="old.json")
    assert "old.json" in refused.value.message
    assert refused.value.hint
    assert refused.value.exit_code == 2


def test_a_missing_key_is_named():
    document = json.loads(to_json(samples.failing()))
    for key in ("verdict", "rules", "cost", "policy"):
        short = {k: v for k, v in document.items() if k != key}
        with pytest.raises(GatekeeperError, match=f"{key}.*missing"):
            from_json(json.dumps(short))


@given(plain)
def test_plain_values_survive_writing(value):
    assert loads(dumps(value), origin="x") == value


def test_records_have_no_field_the_walk_cannot_describe():
    assert '"type": "object"' in json.dumps(report_json.schema_of(ScanReport))
    assert report_json.schema_of(Quality)["properties"]["rebound"]["anyOf"][1] == {"type": "null"}
