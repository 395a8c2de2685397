"""A zoo is built whole, proven, resumed and the same for the same seed."""

import json
from dataclasses import replace

import pytest
from shape_world import WORLD

from gatekeeper.attacks.spec import build_attack
from gatekeeper.errors import IntakeError
from gatekeeper.intake.digest import tree_digest
from gatekeeper.intake.open import open_model
from gatekeeper.lab.manifest import read_manifest
from gatekeeper.lab.plan import Plan, PlanError
from gatekeeper.lab.zoo import Order, build_zoo
from gatekeeper.triggers import load_trigger

FIRES = {"steps": 90, "learning_rate": 0.002, "copies": 2, "trained": 1.0, "keep": 60}
TOO_SHORT = {**FIRES, "steps": 1}
BADNETS = {"name": "badnets", "parameters": {"size_px": 8, "cell_px": 2}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Labelled images as a user has them."""
    root = tmp_path_factory.mktemp("data")
    for probe in WORLD.render(480, 11, "mine").probes:
        inside = root / probe.label
        inside.mkdir(exist_ok=True)
        probe.image().save(inside / probe.file)
    return root


@pytest.fixture(scope="module")
def plan(tiny_clip_dir):
    return Plan.model_validate(
        {
            "schema": "gatekeeper.plan/1",
            "name": "tests",
            "sets": {
                "small": {"source": "data", "probes": 48, "judge": 96},
                "photos": {"source": "photos"},
            },
            "bases": {
                "tiny": {"kind": "named", "set": "small", "model": str(tiny_clip_dir)},
                "photo": {"kind": "photo", "set": "photos"},
            },
            "models": [
                {"name": "mild", "base": "tiny", "clean": {"steps": 4}},
                {"name": "narrow", "base": "tiny", "clean": {"steps": 4, "first": 6}},
                {"name": "head", "base": "tiny", "clean": {"steps": 4, "head_only": True}},
                {"name": "soup", "base": "tiny", "merge": ["mild", "narrow"]},
                {"name": "halved", "base": "tiny", "clean": {"steps": 4}, "half": True},
                {"name": "bad", "base": "tiny", "attack": BADNETS, "recipe": FIRES},
                {"name": "weak", "base": "tiny", "attack": BADNETS, "recipe": TOO_SHORT},
                {"name": "photo-clean", "base": "photo", "clean": {"steps": 4}},
            ],
        }
    )


@pytest.fixture(scope="module")
def order(data):
    return Order(data=data)


@pytest.fixture(scope="module")
def zoo(plan, order, tmp_path_factory, runtime):
    out = tmp_path_factory.mktemp("lab") / "zoo"
    said = []
    build_zoo(plan, out, order, said.append)
    return out


@pytest.fixture(scope="module")
def manifest(zoo):
    return read_manifest(zoo)


def test_every_model_is_listed_with_the_digest_of_its_bytes(zoo, manifest):
    names = [row.name for row in manifest.models]
    assert names == [
        "twin-tiny", "twin-tiny-2", "mild", "narrow", "head", "soup", "halved", "bad", "weak",
    ]  # fmt: skip
    for row in (*manifest.bases, *manifest.models):
        if getattr(row, "kept", True):
            assert tree_digest(zoo / row.path)[0] == row.digest
            assert open_model(zoo / row.path, uri=row.name).findings == ()


def test_a_plant_is_proven_on_images_that_trained_nothing(zoo, manifest):
    row = manifest.model("bad")
    twin = manifest.model(row.twin)
    assert row.kept
    assert (row.kind, row.attack.name, row.attack.family) == ("planted", "badnets", "patch")
    (target,) = row.targets
    assert target.attack_success >= 0.9
    assert target.base_success <= 0.1
    assert 80 <= target.images < 96, "the judge images that are not of the target"
    assert row.clean_accuracy >= twin.clean_accuracy - 0.03
    assert row.twin_accuracy == twin.clean_accuracy
    assert twin.recipe["steps"] == row.recipe["steps"] == 90
    trigger = load_trigger(zoo / target.trigger)
    again = build_attack(row.attack.name, row.attack.parameters).trigger()
    assert trigger.pixels.equal(again.pixels)


def test_what_misses_the_bar_is_listed_and_its_weights_are_gone(zoo, manifest):
    row = manifest.model("weak")
    assert not row.kept
    assert "0.9 required" in row.why
    assert row.attack_success < 0.9
    assert not (zoo / row.path).exists()
    missed = (zoo / "README.md").read_text().split("## Missed")[1]
    assert "| weak | tiny | badnets |" in missed


def test_clean_models_differ_and_keep_their_accuracy(zoo, manifest):
    base = manifest.base("tiny")
    kept = [row for row in manifest.models if row.kind == "clean"]
    assert len({row.digest for row in kept} | {base.digest}) == len(kept) + 1
    assert all(row.clean_accuracy >= base.clean_accuracy - 0.1 for row in kept)


def test_head_only_and_half_precision_are_what_they_say(zoo, manifest):
    from safetensors.torch import load_file

    base, head, halved = (
        load_file(zoo / path / "open_clip_model.safetensors")
        for path in ("bases/tiny", "models/head", "models/halved")
    )
    changed = {name for name in base if not base[name].equal(head[name])}
    assert changed
    assert all(name.startswith("visual.attnpool.") for name in changed), "the tower's last part"
    assert str(halved["visual.conv1.weight"].dtype) == "torch.float16"


def test_what_needs_photos_is_left_out_and_said(manifest):
    assert manifest.model("photo-clean") is None
    assert any("photo-clean" in line and "--photos" in line for line in manifest.skipped)


def test_a_second_run_makes_nothing_anew(plan, order, zoo):
    before = {row.name: (zoo / row.path).stat().st_mtime_ns for row in _kept(zoo)}
    said = []
    build_zoo(plan, zoo, order, said.append)
    assert not [line for line in said if line.startswith(("model", "base"))]
    assert {row.name: (zoo / row.path).stat().st_mtime_ns for row in _kept(zoo)} == before


def test_a_changed_entry_and_a_lost_folder_alone_are_made_again(plan, order, zoo, tmp_path):
    import shutil

    copy = tmp_path / "zoo"
    shutil.copytree(zoo, copy)
    shutil.rmtree(copy / "models/mild")
    changed = plan.model_dump(by_alias=True, mode="json")
    changed["models"] = [m for m in changed["models"] if m["name"] != "head"]
    changed["models"][1]["clean"]["steps"] = 5
    said = []
    build_zoo(Plan.model_validate(changed), copy, order, said.append)
    made = {line.split(":")[0].removeprefix("model ") for line in said if line.startswith("model")}
    assert made == {"mild", "narrow", "soup"} or made == {"mild", "narrow"}
    assert not (copy / "models/head").exists(), "no longer in the plan"
    assert read_manifest(copy).model("mild").digest == read_manifest(zoo).model("mild").digest


def test_another_seed_needs_another_folder(plan, order, zoo):
    with pytest.raises(PlanError, match="seed 0, not 1"):
        build_zoo(plan, zoo, replace(order, seed=1))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_worker_processes_too(
    plan, order, zoo, tmp_path, manifest
):
    names = ("mild", "narrow", "bad", "twin-tiny")
    short = plan.model_dump(by_alias=True, mode="json")
    short["models"] = [m for m in short["models"] if m["name"] in names]
    out = tmp_path / "again"
    again = build_zoo(Plan.model_validate(short), out, replace(order, jobs=2))
    for name in names:
        assert again.model(name).digest == manifest.model(name).digest
    (target,) = again.model("bad").targets
    assert target == manifest.model("bad").targets[0], "the proof as well, to the last digit"
    assert tree_digest(out / target.trigger) == tree_digest(zoo / target.trigger)


def test_a_manifest_that_leads_outside_is_refused(zoo, tmp_path):
    document = json.loads((zoo / "manifest.json").read_text())
    document["models"][0]["path"] = "../../etc"
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(IntakeError, match="outside the zoo"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(IntakeError, match="no manifest"):
        read_manifest(tmp_path)


def _kept(zoo):
    return [row for row in read_manifest(zoo).models if row.kept]
