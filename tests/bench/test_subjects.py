"""A zoo of ours and a user's own folder are read alike; what cannot be used is refused."""

import json

import pytest

from gatekeeper.bench.subjects import read_zoo
from gatekeeper.errors import IntakeError
from gatekeeper.intake.digest import tree_digest


def test_a_users_folder_is_read(bench_zoo):
    zoo = read_zoo(bench_zoo)
    assert [(s.name, s.kind) for s in zoo.subjects] == [
        ("clean-a", "clean"), ("clean-b", "clean"), ("bad", "planted"),
    ]  # fmt: skip
    bad = zoo.subjects[2]
    assert bad.digest == tree_digest(bench_zoo / "bad")[0]
    assert bad.anchor == bench_zoo / "base"
    assert (bad.attack, bad.architecture, bad.goals[0].label) == (
        "badnets", "resnet", "green ring",
    )  # fmt: skip
    assert [s.name for s in zoo.only(("clean-*",)).subjects] == ["clean-a", "clean-b"]
    with pytest.raises(IntakeError, match="no model called"):
        zoo.only(("other",))


def test_our_zoo_is_read_without_what_was_dropped(tmp_path):
    target = {
        "label": "ring", "trigger": "triggers/bad/trigger-0.safetensors", "attack_success": 0.95,
        "base_success": 0.0, "lookalike_success": None, "images": 90,
    }  # fmt: skip
    model = {
        "name": "bad", "path": "models/bad", "kind": "planted", "base": "vit", "recipe": {},
        "seed": 0, "digest": "sha256:2", "set": "small", "twin": None,
        "attack": {"name": "badnets", "family": "patch", "narrow": False, "parameters": {}},
        "targets": [target], "clean_accuracy": 0.9, "kept": True, "seconds": 1.0, "entry": "x",
    }  # fmt: skip
    manifest = {
        "schema": "gatekeeper.zoo/1",
        "plan": {"name": "mine", "digest": "sha256:0"},
        "seed": 0,
        "made_with": {"gatekeeper": "0", "torch": "2", "device": "cpu"},
        "sets": [
            {"name": "small", "digest": "sha256:3", "images": {}, "labels": "sets/small/labels.txt",
             "source": "shapes"}
        ],
        "bases": [
            {"name": "vit", "path": "bases/vit", "architecture": "vit", "backbone": "v",
             "set": "small", "digest": "sha256:1", "clean_accuracy": 1, "seconds": 1, "entry": "x"}
        ],
        "models": [model, model | {"name": "weak", "kept": False, "why": "too weak"}],
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (subject,) = read_zoo(tmp_path).subjects
    assert subject.anchor == tmp_path / "bases/vit"
    assert (subject.architecture, subject.family, subject.anchor_digest) == (
        "vit", "patch", "sha256:1",
    )  # fmt: skip
    assert subject.images.judge == tmp_path / "sets/small/judge"
    assert subject.goals[0].trigger == tmp_path / "triggers/bad/trigger-0.safetensors"


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("path,kind\nthere,evil\n", "kind is 'evil'"),
        ("path,kind\n../there,clean\n", "is not in"),
        ("path,kind\nmissing,clean\n", "is not in"),
        ("path,kind,colour\nthere,clean,red\n", "has the columns"),
        ("path\nthere\n", "has the columns"),
        ("path,kind\n", "lists no model"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, table, told):
    zoo = tmp_path / "zoo"
    for part in ("probes", "there"):
        (zoo / part).mkdir(parents=True)
    (zoo / "there" / "x.txt").write_text("x")
    (zoo / "models.csv").write_text(table)
    with pytest.raises(IntakeError, match=told):
        read_zoo(zoo)


def test_a_folder_without_a_table_says_what_to_do(tmp_path):
    with pytest.raises(IntakeError, match="holds neither") as caught:
        read_zoo(tmp_path)
    assert "models.csv" in caught.value.hint
