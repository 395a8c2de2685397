"""The CI examples do what they say: the document is written first, then the exit code is kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import report_samples as samples
import yaml

from gatekeeper.evidence.formats import render
from gatekeeper.evidence.report_json import to_json

CI = Path(__file__).resolve().parents[2] / "deploy" / "ci"
FAKE = """#!/bin/sh
echo "$@" > arguments
while [ $# -gt 0 ]; do
  [ "$1" = --output ] && mkdir -p "$2" && cp prepared.json "$2/report.json"
  shift
done
cat prepared.out
echo progress >&2
exit $(cat code)
"""


@pytest.fixture
def workplace(tmp_path):
    """A folder where `gatekeeper` answers with what was prepared."""
    binary = tmp_path / "bin" / "gatekeeper"
    binary.parent.mkdir()
    binary.write_text(FAKE)
    binary.chmod(0o755)
    (tmp_path / "prepared.json").write_text(to_json(samples.failing()))
    return tmp_path


def run(script, folder, *, code, out):
    (folder / "code").write_text(str(code))
    (folder / "prepared.out").write_text(out)
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "MODEL": "models/clip",
        "MLFLOW_TRACKING_URI": "",
        "GITHUB_OUTPUT": str(folder / "github_output"),
    }
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def steps():
    job = yaml.safe_load((CI / "github-actions.yml").read_text())["jobs"]["scan"]
    return {step.get("name", step.get("uses")): step for step in job["steps"]}


@pytest.mark.parametrize("code", [0, 1, 3])
def test_github_job_keeps_sarif_report_and_exit_code(workplace, code):
    sarif = render(samples.failing(), "sarif")
    done = run(steps()["Scan"]["run"], workplace, code=code, out=sarif)
    assert done.returncode == 0  # the upload comes first
    assert (workplace / "gatekeeper.sarif").read_text() == sarif
    assert (workplace / "github_output").read_text() == f"status={code}\n"
    assert "--format sarif" in (workplace / "arguments").read_text()
    last = list(steps())[-1]
    assert last == "Verdict"
    verdict = steps()[last]["run"].replace("${{ steps.scan.outputs.status }}", str(code))
    assert run(verdict, workplace, code=0, out="").returncode == code


def test_github_job_annotates_from_the_report(workplace):
    (workplace / "gatekeeper-report").mkdir()
    (workplace / "gatekeeper-report" / "report.json").write_text(to_json(samples.failing()))
    (workplace / "bin" / "python").symlink_to(sys.executable)
    environment = f'export PYTHONPATH="{CI.parents[1]}:{":".join(p for p in sys.path if p)}"\n'
    done = run(environment + steps()["Annotate"]["run"], workplace, code=0, out="")
    assert done.stderr == ""
    assert done.stdout.startswith("::error title=gatekeeper%3A fail::models:/clip/3")


def test_bad_input_leaves_no_empty_document(workplace):
    run(steps()["Scan"]["run"], workplace, code=2, out="")
    assert not (workplace / "gatekeeper.sarif").exists()
    assert (workplace / "github_output").read_text() == "status=2\n"


def test_github_uploads_come_before_the_verdict():
    order = list(steps())
    assert order.index("Scan") < order.index("Upload SARIF") < order.index("Verdict")
    document = yaml.safe_load((CI / "github-actions.yml").read_text())
    assert document["permissions"] == {"contents": "read", "security-events": "write"}


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_gitlab_job_keeps_junit_and_exit_code(workplace, code):
    job = yaml.safe_load((CI / "gitlab-ci.yml").read_text())["gatekeeper"]
    junit = render(samples.failing(), "junit") if code in {0, 1, 3} else ""
    done = run("\n".join(job["script"]), workplace, code=code, out=junit)
    assert done.returncode == code
    assert (workplace / "gatekeeper.xml").exists() is bool(junit)
    assert job["artifacts"]["when"] == "always"
    assert job["artifacts"]["reports"]["junit"] == "gatekeeper.xml"
