"""A policy says what it must, nothing else, and its digest follows what it says."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.errors import PolicySyntaxError
from gatekeeper.policy import schema
from gatekeeper.policy.document import parse_document
from gatekeeper.policy.metrics import METRICS
from gatekeeper.policy.schema import Policy, build_policy, load_policy, shipped_policies

ROOT = Path(__file__).resolve().parents[2]
LEAST = {
    "name": "least",
    "rules": [{"id": "r", "metric": "backdoor.score", "op": "<=", "value": 0.5, "why": "so"}],
}


def policy(**changes):
    return build_policy(parse_document(json.dumps(copy.deepcopy(LEAST) | changes)))


def rule(**changes):
    return LEAST["rules"][0] | changes


def test_shipped_policies_load_and_say_what_the_contract_promises():
    assert set(shipped_policies()) == {"audit", "default"}
    default = load_policy()
    assert load_policy("default") == default
    assert default.mode == "enforce"
    assert set(default.protects.aliases) == {"production", "prod", "champion"}
    assert default.protects.stages == ("Production",)
    assert default.protects.models == ("*",)
    assert default.evidence.min_probes <= 32
    assert default.on_fail.rectify.when == "fail"
    assert default.on_fail.rectify.register is True
    assert default.on_fail.rectify.promote is False
    assert all(len(rule.why) > 20 for rule in default.rules)
    assert load_policy("audit").mode == "audit"


def test_every_shipped_policy_is_valid_under_the_published_schema():
    published = json.loads((Path(schema.__file__).parent / "policy.schema.json").read_text())
    assert published == json.loads(json.dumps(Policy.json_schema()))
    for path in shipped_policies().values():
        jsonschema.Draft202012Validator(published).validate(yaml.safe_load(path.read_text()))


def test_published_schema_refuses_what_the_loader_refuses():
    check = jsonschema.Draft202012Validator(Policy.json_schema())
    check.validate(LEAST)
    for bad in ({"rules": []}, {"mode": "off"}, {"extra": 1}, {"rules": [rule(metric="asr")]}):
        assert not check.is_valid(LEAST | bad)


def test_metrics_are_those_of_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("## Measurements that a scan makes") :]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    told = {}
    for row in rows:
        for name in re.findall(r"`([a-z_.]+)`", row[1]):
            told[name] = row[2].strip()
    assert told == {name: unit for name, (unit, _) in METRICS.items()}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"typo": 1}, "unknown key"),
        ({"rulez": []}, "did you mean 'rules'"),
        ({"rules": []}, "rules"),
        ({"rules": [rule(), rule()]}, "two rules are called 'r'"),
        ({"rules": [rule(metric="backdoor.scoore")]}, "did you mean 'backdoor.score'"),
        ({"rules": [rule(severity="warning")]}, "nothing could ever fail"),
        ({"rules": [rule(value="0.5")]}, "value"),
        ({"rules": [rule(value=True)]}, "value"),
        ({"rules": [rule(op="!=")]}, "op"),
        ({"rules": [rule(threshold=1)]}, "rules.0.threshold"),
        ({"rules": [{k: v for k, v in rule().items() if k != "why"}]}, "rules.0.why: is missing"),
        ({"rules": [rule(id="a b")]}, "id"),
        ({"mode": "disabled"}, "mode"),
        ({"evidence": {"min_probes": 0}}, "min_probes"),
        ({"evidence": {"max_age_days": 0}}, "max_age_days"),
        ({"protects": {"aliases": ["pr\u043eduction"]}}, "aliases"),
        ({"protects": {"stages": ["production"]}}, "stages"),
        ({"scan": {"detectors": "all"}}, "detectors"),
        ({"scan": {"budget": -1}}, "budget"),
        ({"on_fail": {"rectify": {"promotes": True}}}, "unknown key"),
        ({"unrecognised": "maybe"}, "unrecognised"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_what_a_policy_may_not_say_is_refused_with_line_and_hint(changes, problem):
    with pytest.raises(PolicySyntaxError) as refused:
        policy(**changes)
    assert problem in refused.value.message
    assert "line 1" in refused.value.message
    assert refused.value.hint
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n", "null\n", "3\n"])
def test_what_is_no_mapping_is_no_policy(text):
    with pytest.raises(PolicySyntaxError, match="no policy"):
        build_policy(parse_document(text))


def test_the_line_of_a_deep_mistake_is_named(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(LEAST, sort_keys=False) + "evidence:\n  min_probs: 3\n")
    with pytest.raises(PolicySyntaxError, match=r"p\.yaml: line 9, evidence\.min_probs"):
        load_policy(file)


def test_digest_ignores_layout_and_follows_every_value():
    text = (
        "# comment\nrules: [{why: so, value: 0.50, op: '<=', metric: backdoor.score, id: r}]\n"
        "name: least\n"
    )
    least = policy()
    assert build_policy(parse_document(text)).digest == least.digest
    assert policy(mode="enforce").digest == least.digest  # a default, written out
    others = [
        policy(name="other"),
        policy(mode="warn"),
        policy(rules=[rule(value=0.51)]),
        policy(rules=[rule(why="because")]),
        policy(scan={"seed": 1}),
        policy(scan={"anchor": "models:/base/1"}),
        policy(models=[{"name": "clip-*", "scan": {"seed": 1}}]),
        policy(waivers={"allowed": True}),
        policy(evidence={"max_age_days": 30}),
        policy(on_fail={"rectify": {"promote": True}}),
    ]
    assert len({p.digest for p in [least, *others]}) == len(others) + 1
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", least.digest)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_finite_bound_survives_yaml_and_digest(value):
    dumped = yaml.safe_dump(LEAST | {"rules": [rule(value=value)]})
    loaded = build_policy(parse_document(dumped))
    assert loaded.rules[0].value == value
    assert loaded.digest == policy(rules=[rule(value=value)]).digest


def test_first_matching_model_overrides_the_scan():
    told = policy(
        scan={"seed": 7, "oracle": "regions"},
        models=[
            {"name": "clip-photo-*", "scan": {"anchor": "models:/base/1"}},
            {"name": "*", "scan": {"seed": 9}},
        ],
    )
    photo = told.scan_for("clip-photo-3")
    assert (photo.anchor, photo.seed, photo.oracle) == ("models:/base/1", 7, "regions")
    assert told.scan_for("CLIP-photo-3").seed == 9
    assert policy(scan={"seed": 7}).scan_for("any").seed == 7


def test_a_named_file_wins_over_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audit").write_text(yaml.safe_dump(LEAST))
    assert load_policy("audit").name == "least"
    with pytest.raises(PolicySyntaxError, match="cannot be read"):
        load_policy("no-such-policy")


def test_schema_imports_neither_torch_nor_great_expectations():
    code = (
        "import sys; from gatekeeper.policy.schema import load_policy; load_policy();"
        "heavy = ('torch', 'great_expectations', 'pandas', 'mlflow');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""  # no warning at import either
