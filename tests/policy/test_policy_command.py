"""`gatekeeper policy`: shows, checks and tries out policies; exit codes by the contract."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gatekeeper.cli.policy import command
from gatekeeper.errors import GatekeeperError
from gatekeeper.evidence.report_json import to_json
from gatekeeper.policy.schema import Policy, load_policy
from gatekeeper.types import Cost, ModelRef, Reference, ScanReport, Verdict

CLEAN = {
    "static.unsafe_load": 0.0,
    "static.malformed_file": 0.0,
    "static.altered_settings": 0.0,
    "backdoor.score": 0.02,
    "trigger.flip_rate": 0.03,
    "probes.count": 64.0,
}
REPORT = ScanReport(
    verdict=Verdict.PASS,
    score=0.02,
    reasons=("All 4 critical rules hold.",),
    targets=(),
    victims=(),
    triggers=(),
    suspects=(),
    findings=(),
    measurements=CLEAN,
    rules=(),
    model=ModelRef(uri="models:/clip/1", digest="sha256:00", arch=None),
    anchor=None,
    policy=Reference(name="default", digest="sha256:11"),
    probes=None,
    oracle=None,
    calibration=None,
    cost=Cost(seconds=1.0, image_passes=1.0, text_passes=1.0, peak_rss_mb=1.0, device="cpu"),
    environment={},
    seed=0,
    started="2026-01-01T00:00:00+00:00",
    finished="2026-01-01T00:00:01+00:00",
)


def run(*arguments, **environment):
    clear = {"GATEKEEPER_POLICY": environment.get("policy")}
    return CliRunner(env=clear).invoke(command, [str(a) for a in arguments])


def stored(folder, name, **changes):
    file = folder / name / "report.json"
    file.parent.mkdir(parents=True)
    file.write_text(to_json(replace(REPORT, **changes)))
    return file


def test_show_prints_a_policy_that_loads_again(tmp_path):
    shown = run("show")
    assert shown.exit_code == 0
    file = tmp_path / "again.yaml"
    file.write_text(shown.stdout)
    assert load_policy(file) == load_policy()
    assert load_policy().digest in shown.stdout
    assert "mode: audit" in run("show", "audit").stdout
    assert json.loads(run("show", "--format", "json").stdout)["digest"] == load_policy().digest
    assert json.loads(run("show", "--schema").stdout) == json.loads(
        json.dumps(Policy.json_schema())
    )


def test_the_environment_names_the_policy():
    assert "mode: audit" in run("show", policy="audit").stdout


def test_validate_says_so_or_raises_with_the_line(tmp_path):
    assert "valid, 5 rules, enforce" in run("validate", _shipped()).stdout
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\nrules: []\n")
    told = run("validate", _shipped(), bad)
    assert isinstance(told.exception, GatekeeperError)
    assert told.exception.exit_code == 2
    assert "bad.yaml: line 2, rules" in told.exception.message
    assert run("validate").exit_code == 2


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({}, 0, "pass"),
        ({"measurements": CLEAN | {"backdoor.score": 0.9}, "score": 0.9}, 1, "fail"),
        ({"measurements": CLEAN | {"probes.count": 3.0}}, 3, "inconclusive"),
        ({"score": None}, 3, "inconclusive"),
    ],
)
def test_test_exits_by_verdict(tmp_path, changes, code, word):
    told = run("test", stored(tmp_path, "a", **changes))
    assert told.exit_code == code
    assert told.stdout.startswith(word)


def test_test_takes_folders_exits_by_the_worst_and_names_what_flipped(tmp_path):
    stored(tmp_path, "good")
    stored(tmp_path, "unsure", score=None, verdict=Verdict.INCONCLUSIVE)
    assert run("test", tmp_path).exit_code == 3
    stored(tmp_path, "bad", measurements=CLEAN | {"backdoor.score": 0.4}, score=0.4)
    strict = tmp_path / "strict.yaml"
    document = yaml.safe_load(_shipped().read_text())
    document["rules"][3]["value"] = 0.3
    strict.write_text(yaml.safe_dump(document))
    assert run("test", tmp_path).exit_code == 3
    told = run("test", tmp_path, "--policy", strict, "--format", "json")
    assert told.exit_code == 1
    rows = {Path(row["file"]).parent.name: row for row in json.loads(told.stdout)}
    assert (rows["bad"]["verdict"], rows["bad"]["was"]) == ("fail", "pass")
    assert rows["good"]["verdict"] == "pass"
    assert "(was pass)" in run("test", tmp_path, "--policy", strict).stdout


def test_test_refuses_what_is_no_report(tmp_path):
    for content in (None, "{}"):
        folder = tmp_path / str(content)
        folder.mkdir()
        if content:
            (folder / "report.json").write_text(content)
        told = run("test", folder)
        assert isinstance(told.exception, GatekeeperError)
        assert told.exception.exit_code == 2


def test_stored_strings_reach_the_terminal_escaped(tmp_path):
    told = run("test", stored(tmp_path, "i\x1b[2J", measurements=CLEAN | {"x\x1b[31m": 1.0}))
    assert told.exit_code == 0
    assert "\x1b" not in told.stdout


def _shipped():
    return Path(__file__).resolve().parents[2] / "policies" / "default.yaml"
