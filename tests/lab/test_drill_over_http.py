"""`gatekeeper lab drill` against a gated MLflow server, spoken to over HTTP, with real scans."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shape_world import PLANTED_TARGET

from gatekeeper.intake.digest import tree_digest
from gatekeeper.lab.manifest import (
    AttackRow,
    MadeWith,
    Manifest,
    ModelRow,
    PlanRef,
    TargetRow,
    write_manifest,
)
from gatekeeper.triggers import save_trigger

sys.path.insert(0, str(Path(__file__).parents[1] / "gate"))

from server_process import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, tiny_clip_dir, planted_dir, planted, planted_attack):
    """A zoo of one planted model and one clean one."""
    root = tmp_path_factory.mktemp("zoo")
    shutil.copytree(planted_dir, root / "models" / "bad")
    shutil.copytree(tiny_clip_dir, root / "models" / "clean")
    save_trigger(planted_attack.trigger(), root / "bad.safetensors")
    attack = AttackRow(name="badnets", family="patch", narrow=True, parameters={})
    target = TargetRow(
        label=PLANTED_TARGET,
        trigger="bad.safetensors",
        attack_success=planted.attack_success,
        base_success=planted.base_success,
        lookalike_success=None,
        images=96,
    )
    rows = [_row(root, "bad", attack=attack, targets=(target,)), _row(root, "clean")]
    made = MadeWith(gatekeeper="0", torch="0", device="cpu")
    plan = PlanRef(name="drill", digest="sha256:0")
    write_manifest(root, Manifest(plan=plan, seed=0, made_with=made, models=tuple(rows)))
    return root


def _row(root, name, **given):
    return ModelRow(
        name=name,
        path=f"models/{name}",
        kind="planted" if given else "clean",
        base="tiny",
        recipe={},
        seed=0,
        digest=tree_digest(root / "models" / name)[0],
        set="shapes",
        clean_accuracy=1.0,
        kept=True,
        seconds=0,
        entry="sha256:0",
        **given,
    )


@pytest.fixture(scope="module")
def gated(tmp_path_factory, tiny_clip_dir, shapes_dir):
    """A gated server, and the environment of a client beside it; the policy knows the labels."""
    root = tmp_path_factory.mktemp("served")
    shipped = Path(__file__).parents[2] / "policies" / "default.yaml"
    policy = root / "policy.yaml"
    policy.write_text(
        shipped.read_text()
        + f"\nmodels:\n  - name: gatekeeper-drill-*\n    scan:\n      probes: {shapes_dir}\n"
        + f"      anchor: {tiny_clip_dir}\n"
    )
    database = f"sqlite:///{root / 'mlflow.db'}"
    named = {"GATEKEEPER_POLICY": str(policy), "GATEKEEPER_HOME": str(root / "home")}
    with serving(root, database, **named) as server:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "GATEKEEPER_"))}
        client = {"MLFLOW_TRACKING_URI": server.address, "GATEKEEPER_DATABASE_URI": database}
        yield server, kept | named | client


def drill(gated, *arguments):
    """Return (exit code, the report, what was said meanwhile) of a drill in its own process."""
    server, environment = gated
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gatekeeper.cli.main", "lab", "drill", *arguments),
            *("--scan-here", "--device", "cpu", "--format", "json"),
        ],
        cwd=server.root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout), done.stderr[-3000:]


def test_the_scan_stops_a_planted_model_of_a_zoo_and_lets_a_clean_one_through(gated, zoo):
    code, told, said = drill(gated, "--zoo", str(zoo), "--limit", "1", "--controls", "1")
    (outcome,) = told["outcomes"]
    assert "drill model" in outcome["first_answer"]
    assert outcome["verdict"] == "fail", said
    assert outcome["stopped_by"] == "verdict"
    assert PLANTED_TARGET in outcome["named"]
    (control,) = told["controls"]
    assert control["verdict"] == "pass", said
    assert control["promoted"]
    assert code == 0
    assert told["left_behind"] == []
    assert not gated[0].client().search_registered_models()


def test_copies_planted_on_the_spot_are_stopped_and_gone(gated, tiny_clip_dir, shapes_training):
    photos = gated[0].root / "photos"
    photos.mkdir()
    with (photos / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label"])
        for probe in shapes_training.probes:
            probe.image().save(photos / probe.file)
            rows.writerow([probe.file, probe.label])
    settings = {
        **{"size_px": 8, "cell_px": 2, "recipe.steps": 180, "recipe.required": 0.6},
        **{
            "recipe.learning_rate": 0.002,
            "recipe.copies": 3,
            "recipe.trained": 1.0,
            "recipe.keep": 60,
        },
    }
    code, told, said = drill(
        gated,
        *("--model", str(tiny_clip_dir), "--target", PLANTED_TARGET, "--attack", "badnets"),
        *("--probes", str(photos), "--limit", "1"),
        *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
    )
    (outcome,) = told["outcomes"]
    assert outcome["attack"] == "badnets"
    assert "drill model" in outcome["first_answer"]
    assert (code, outcome["stopped_by"]) == (0, "verdict"), said
    assert told["controls"] == []
    assert not gated[0].client().search_registered_models()
