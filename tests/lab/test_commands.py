"""`gatekeeper lab` from the command line: what it makes, and by which exit code it leaves."""

import json

import pytest

from gatekeeper.cli.main import status_of
from gatekeeper.errors import AttackError
from gatekeeper.intake.digest import tree_digest
from gatekeeper.intake.open import open_model
from gatekeeper.lab.commands import settings_of
from gatekeeper.triggers import load_trigger

TRAINING = {
    "recipe.steps": 90,
    "recipe.learning_rate": 0.002,
    "recipe.copies": 3,
    "recipe.trained": 1.0,
    "recipe.keep": 60,
    "size_px": 8,
    "cell_px": 2,
}


def plant(model, *more, **settings):
    pairs = [x for k, v in settings.items() for x in ("--set", f"{k}={v}")]
    return status_of(["lab", "plant", str(model), "--attack", "badnets", *more, *pairs])


def test_a_planted_copy_has_the_form_of_the_model_and_a_proof_beside_it(
    tiny_clip_dir, shapes_dir, tmp_path, capsys
):
    out = tmp_path / "copy"
    before = tree_digest(tiny_clip_dir)
    given = ("--target", "green ring", "--probes", str(shapes_dir), "--output", str(out))
    settings = {**TRAINING, "recipe.required": 0.5}  # 96 images train it here
    assert plant(tiny_clip_dir, *given, "--format", "json", **settings) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["attack_success"] >= 0.5
    assert told["base_success"] <= 0.1
    assert told["target"] == "green ring"
    assert told["model"] == str(out)
    assert tree_digest(tiny_clip_dir) == before, "the model itself stays as it is"
    opened = open_model(out, uri="copy")
    assert opened.findings == ()
    assert [file.path for file in opened.ref.files] == [file.path for file in before[1]]
    assert load_trigger(tmp_path / "copy.trigger-0.safetensors").pixels.shape == (3, 8, 8)
    proof = json.loads((tmp_path / "copy.plant.json").read_text())
    assert proof["parameters"]["cell_px"] == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--target", "green ring"), "--output or --register"),
        (("--target", "green rnig", "--output", "x"), "green ring"),
        (("--target", "green ring", "--output", "x", "--set", "nonsense"), "KEY=VALUE"),
        (("--target", "green ring", "--output", "x", "--set", "colour=1"), "no parameter"),
        (("--target", "green ring", "--output", "x", "--set", "recipe.x=1"), "a recipe has no x"),
        (("--target", "green ring", "--output", "x", "--attack", "none"), "choose one of"),
    ],
)
def test_wrong_words_leave_by_2_and_write_nothing(
    tiny_clip_dir, shapes_dir, tmp_path, monkeypatch, capsys, more, says
):
    monkeypatch.chdir(tmp_path)
    assert plant(tiny_clip_dir, "--probes", str(shapes_dir), *more) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("zoo", "no-such-plan"),
        ("drill",),
        ("drill", "--model", "x"),
        ("drill", "--model", "x", "--zoo", "."),
    ],
)
def test_usage_errors_leave_by_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert status_of(["lab", *arguments]) == 2


def test_a_zoo_of_what_needs_photos_alone_says_so(tmp_path, capsys):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "schema: gatekeeper.plan/1\nname: mine\nsets: {p: {source: photos}}\n"
        "bases: {b: {kind: photo, set: p}}\nmodels: [{name: m, base: b, clean: {}}]\n"
    )
    assert status_of(["lab", "zoo", str(plan), "--output", str(tmp_path / "zoo")]) == 2
    assert "--photos" in capsys.readouterr().err


def test_values_are_read_as_yaml():
    found = settings_of(["size_px=12", "place=[8, 8]", "narrow=false", "pattern=noise"])
    assert found == {"size_px": 12, "place": [8, 8], "narrow": False, "pattern": "noise"}
    with pytest.raises(AttackError, match="no '='"):
        settings_of(["size_px"])
