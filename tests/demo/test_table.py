"""The demo's table says what was measured, and its links lead to the server."""

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console

from gatekeeper.demo import run
from gatekeeper.demo.processes import Place
from gatekeeper.demo.run import Line, Story
from gatekeeper.demo.table import render
from gatekeeper.errors import ServiceError


def story(tmp_path):
    rows = [
        (1, "honest copy", 1.0, 1.0, 0.0, "pass", True),
        (2, "backdoored copy", 0.76, 0.961, 0.974, "fail", False),
        (3, "cleaned copy", 0.75, 0.952, 0.013, "pass", True),
    ]
    keys = (
        "version",
        "what",
        "agreement",
        "sure_agreement",
        "attack_success",
        "verdict",
        "promoted",
    )
    return Story(
        place=Place(folder=tmp_path, port=5001, home=tmp_path),
        lines=[Line(**dict(zip(keys, row, strict=True))) for row in rows],
        seconds={"plant the backdoor": 61.4, "promote again": 1.2},
        proof_images=76,
        sure_images=31,
    )


def test_the_table_holds_every_number(tmp_path):
    out = io.StringIO()
    Console(file=out, width=80).print(render(story(tmp_path)))
    text = out.getvalue()
    for needle in (
        "97.4%",
        "1.3%",
        "75%, 95%",
        "the 31 of",
        "cleaned copy",
        "refused",
        "76 pictures",
    ):
        assert needle in text
    assert "plant the backdoor" in text
    assert "63" in text  # seconds together


def test_links_and_the_command_to_serve_again(tmp_path):
    told = story(tmp_path)
    assert told.links["who tried to promote what"] == "http://127.0.0.1:5001/gatekeeper"
    assert any("versions/3" in link for link in told.links.values())
    assert str(tmp_path / "mlflow.db") in told.serve_again


def test_it_ended_well_only_where_every_answer_is_right(tmp_path):
    told = story(tmp_path)
    assert told.ended_well
    told.lines[1] = replace(told.lines[1], promoted=True)
    assert not told.ended_well
    assert not replace(told, lines=told.lines[:2]).ended_well


def test_the_workers_lines_tell_which_phase_it_is_in(tmp_path, monkeypatch):
    lines = (
        "worker here: policy 'default'",
        "job 1: fetching models:/photo-clip/1",
        "job 1: models:/photo-clip/1: pass",
        "job 2: fetching models:/photo-clip/2",
        "job 2: rectifying models:/photo-clip/2",
    )

    def work_off(place, hear):
        for line in lines:
            hear(line)
            time.sleep(0.02)
        raise ServiceError("the worker ended", hint="read its log")

    monkeypatch.setattr(run.processes, "work_off", work_off)
    told, heard = Story(place=Place(folder=tmp_path, port=5001, home=tmp_path)), []
    with pytest.raises(ServiceError):
        run._work(told, heard.append)
    assert list(told.seconds) == [
        "start the worker",
        "scan version 1",
        "scan version 2",
        "rectify version 2, scan the result",
    ]
    assert told.seconds["scan version 1"] >= 0.04
    assert len(heard) == len(lines)
