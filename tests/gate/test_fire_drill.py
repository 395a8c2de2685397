"""A fire drill is judged by the verdict, and leaves nothing behind."""

import json

import pytest
from gate_rows import queued
from gate_samples import assessor, repairer

from gatekeeper.errors import IntakeError
from gatekeeper.gate.drills import Drill, DrillDesk
from gatekeeper.gate.settings import Settings
from gatekeeper.gate.state import find_source
from gatekeeper.gate.worker import run_worker
from gatekeeper.lab.drill import Dummy, Range, from_zoo, hold_drill
from gatekeeper.lab.drill_report import Stopped
from gatekeeper.types import Verdict


@pytest.fixture
def dummies(tmp_path):
    made = []
    for name in ("badnets", "blended"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 8}}))
        (folder / "open_clip_model.safetensors").write_bytes(name.encode())
        made.append(Dummy(name=name, root=folder, drill=Drill(attack=name, target="banana")))
    return made


def place(registry, verdict, **changes):
    def scan(job_id):
        shop = registry.shop(assess=assessor(verdict), rectify=repairer(Verdict.FAIL))
        run_worker(shop, once=True)

    settings = Settings.from_environment()
    given = {
        "desk": DrillDesk.open(),
        "source": find_source(settings.policy.digest),
        "name": "drill",
        "timeout_s": 0.1,
        "scan": scan if verdict else None,
    }
    return Range(**(given | changes))


@pytest.mark.parametrize(
    ("verdict", "stopped", "code"),
    [
        (Verdict.FAIL, Stopped.VERDICT, 0),
        (Verdict.PASS, Stopped.MARK, 1),
        (Verdict.INCONCLUSIVE, Stopped.INCONCLUSIVE, 3),
        (None, Stopped.UNSCANNED, 3),
    ],
)
def test_the_mark_does_not_flatter_the_scan(registry, dummies, verdict, stopped, code):
    report = hold_drill(dummies, place(registry, verdict))
    assert [outcome.stopped_by for outcome in report.outcomes] == [stopped, stopped]
    assert report.exit_code == code
    assert report.to_json()["caught"] == (2 if verdict is Verdict.FAIL else 0)
    assert all("drill model" in outcome.first_answer for outcome in report.outcomes)


def test_a_drill_leaves_nothing_behind(registry, dummies):
    report = hold_drill(dummies, place(registry, None))
    assert report.left_behind == []
    assert not registry.client.search_registered_models()
    assert queued(registry.uri) == []


def test_an_alias_that_nobody_protects_is_a_miss(registry, dummies):
    report = hold_drill(dummies, place(registry, Verdict.FAIL, alias="anything"))
    assert {outcome.stopped_by for outcome in report.outcomes} == {Stopped.NOTHING}
    assert report.exit_code == 1


def test_a_name_in_use_is_left_alone(registry, dummies):
    registry.client.create_registered_model("drill")
    with pytest.raises(IntakeError, match="already"):
        hold_drill(dummies, place(registry, None))
    assert registry.client.get_registered_model("drill")


def test_what_was_registered_is_removed_after_an_error(registry, dummies):
    def broken(job_id):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        hold_drill(dummies, place(registry, Verdict.FAIL, scan=broken))
    assert not registry.client.search_registered_models()


def test_a_drill_without_a_zoo_says_how_to_build_one(tmp_path):
    with pytest.raises(IntakeError) as caught:
        from_zoo(tmp_path)
    assert "gatekeeper lab zoo" in caught.value.hint


@pytest.mark.parametrize(("verdict", "promoted"), [(Verdict.PASS, True), (Verdict.FAIL, False)])
def test_a_clean_control_tells_whether_the_gate_lets_anything_through(
    registry, dummies, verdict, promoted
):
    control = Dummy(name="clean", root=dummies[1].root, drill=None)
    report = hold_drill([dummies[0], control], place(registry, verdict))
    assert [one.promoted for one in report.controls] == [promoted]
    assert len(report.outcomes) == 1
    assert not registry.client.search_registered_models()
