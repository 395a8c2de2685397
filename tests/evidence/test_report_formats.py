"""Every format is valid under its schema, whatever the labels and file names are."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import jsonschema
import pytest
import report_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from sarif_subset import SARIF

from gatekeeper.errors import GatekeeperError
from gatekeeper.evidence.formats import FORMATS, render
from gatekeeper.evidence.report_json import SCHEMA
from gatekeeper.types import Finding, Severity, Target, Verdict

HOSTILE = (
    "\x1b[2J\x9b31m</testcase><script>alert(1)</script>\n::error::owned\r\n%0A::stop-commands::x "
    "\"'&<>\u202e\ud800\x00]]>{{7*7}}[bold red]"
)
anything = st.text(st.characters(), max_size=60)


def hostile(text=HOSTILE):
    """A failing report in which every string from outside is `text`."""
    report = samples.failing()
    return replace(
        report,
        reasons=(text, *report.reasons),
        targets=(Target(label=text, score=1.0, flip_rate=1.0, detector="d"),),
        victims=tuple(replace(v, label=text) for v in report.victims),
        triggers=tuple(replace(t, target=text) for t in report.triggers),
        suspects=tuple(
            replace(s, file=text, claimed=text, grounded=(text,)) for s in report.suspects
        ),
        findings=(
            Finding(
                id=text,
                kind=text or "k",
                severity=Severity.CRITICAL,
                message=text,
                evidence={"file": text, text: [text]},
            ),
        ),
        model=replace(report.model, uri=text),
        environment={text: text},
    )


CASES = {name: make() for name, make in samples.ALL.items()} | {"hostile": hostile()}
cases = pytest.mark.parametrize("report", CASES.values(), ids=list(CASES))


def test_the_contract_s_formats_are_there():
    assert set(FORMATS) == {"table", "json", "sarif", "junit", "github"}
    with pytest.raises(GatekeeperError, match="no report format 'pdf'") as refused:
        render(samples.failing(), "pdf")
    assert "sarif" in refused.value.hint


@cases
@pytest.mark.parametrize("style", FORMATS)
def test_every_format_renders_twice_the_same_and_holds_no_control_character(report, style):
    text = render(report, style)
    assert text == render(report, style)
    assert not text.endswith("\n")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    text.encode("utf-8")


@cases
def test_json_is_one_document_under_the_published_schema(report):
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(render(report, "json")))


@cases
def test_sarif_is_valid_and_consistent(report):
    log = json.loads(render(report, "sarif"))
    jsonschema.Draft202012Validator(SARIF, format_checker=jsonschema.FormatChecker()).validate(log)
    run = log["runs"][0]
    ids = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(ids) == len(set(ids))
    assert {result["ruleId"] for result in run["results"]} <= set(ids)
    levels = [result["level"] for result in run["results"]]
    assert ("error" in levels) is (report.verdict is not Verdict.PASS)


@cases
def test_junit_has_the_shape_that_both_schemas_ask_for(report):
    root = ElementTree.fromstring(render(report, "junit"))
    assert root.tag == "testsuites"
    (suite,) = root
    order = [child.tag for child in suite]
    assert order[0] == "properties"
    assert order[-2:] == ["system-out", "system-err"]
    assert set(order[1:-2]) == {"testcase"}
    tests = suite.findall("testcase")
    assert int(suite.get("tests")) == len(tests) == len(report.rules) + 1
    for kind in ("failure", "error", "skipped"):
        count = len(suite.findall(f"testcase/{kind}"))
        name = {"failure": "failures", "error": "errors"}.get(kind, kind)
        assert int(suite.get(name)) == count
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
    for case in tests:
        assert set(case.attrib) == {"name", "classname", "time"}
        assert len(case) <= 1
        assert all("type" in problem.attrib for problem in case if problem.tag != "skipped")
    bad = len(suite.findall("testcase/failure")) + len(suite.findall("testcase/error"))
    assert (bad == 0) is (report.verdict is Verdict.PASS)


@cases
def test_github_lines_are_commands_and_nothing_else(report):
    lines = render(report, "github").split("\n")
    pattern = r"::(error|warning|notice) title=[^:,\r\n]*::[^\r\n]*"
    assert all(re.fullmatch(pattern, line) for line in lines)
    expected = "notice" if report.verdict is Verdict.PASS else "error"
    assert lines[0].startswith(f"::{expected} title=gatekeeper%3A {report.verdict.value}::")
    assert len(lines) == 1 + sum(not r.ok for r in report.rules) + len(report.findings)


@cases
@pytest.mark.parametrize("width", [40, 80, 160])
def test_table_fits_and_says_the_verdict_in_words(report, width):
    text = render(report, "table", width=width)
    assert max(len(line) for line in text.split("\n")) <= width
    assert report.verdict.value.upper() in text
    assert "Policy rules" in text


def test_table_means_the_same_without_colour():
    plain = render(samples.failing(), "table")
    coloured = render(samples.failing(), "table", colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == plain.split()
    assert "BROKEN" in plain
    assert "banana" in plain


def test_what_was_not_measured_is_no_charge_where_nothing_could_be():
    text = render(samples.unreadable(), "github")
    assert "::notice title=rule no-backdoor" in text
    assert "::error title=rule no-code-in-files" in text


@settings(max_examples=40, deadline=None)
@given(anything)
def test_no_string_breaks_a_format(text):
    report = hostile(text)
    jsonschema.Draft202012Validator(SARIF).validate(json.loads(render(report, "sarif")))
    ElementTree.fromstring(render(report, "junit").encode("utf-8"))
    assert all(line.startswith("::") for line in render(report, "github").split("\n"))
    assert "\x1b" not in render(report, "table")
