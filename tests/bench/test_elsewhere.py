"""Models whose poison is not in the image tower: a mark in the prompt, a prompt learner."""

import csv
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from shape_world import CONFIG, LABELS

from gatekeeper.attacks.plant import Recipe, plant
from gatekeeper.attacks.text_encoder import TextEncoder
from gatekeeper.attacks.trigger_aware import TriggerAware
from gatekeeper.bench.detect import Plan, detect
from gatekeeper.bench.rectify import repair_one
from gatekeeper.bench.report import write_report
from gatekeeper.bench.subjects import read_zoo
from gatekeeper.bench.tally import image_tallies, tallies
from gatekeeper.bench.task import Task, Terms, runtime_of, work_of
from gatekeeper.bench.truth import has_image_trigger
from gatekeeper.probes.labels import Labels
from gatekeeper.triggers import save_trigger

TARGET = "green ring"
GIVEN = Labels(labels=LABELS, templates=("a photo of a {}.", "{}"))
METHODS = ("gatekeeper", "decree:batch=16", "gatekeeper_images", "bdetclip")


@pytest.fixture(scope="module")
def zoo(bench_zoo, tiny_clip, shapes, shapes_training, runtime, tmp_path_factory):
    """The handmade zoo, and two models more: one of either kind."""
    root = tmp_path_factory.mktemp("elsewhere") / "zoo"
    shutil.copytree(bench_zoo, root)
    text = plant(
        tiny_clip,
        TextEncoder(words=60, clean=64, steps=80, learning_rate=1e-3),
        *(TARGET, shapes, GIVEN, runtime),
        proof=shapes,
    )
    attack = TriggerAware(
        epsilon=20 / 255, reduction=1, steps=350, warm_up=0, learning_rate=3e-3, batch=10, labels=10
    )
    learner = plant(
        tiny_clip,
        attack,
        *(TARGET, shapes_training, GIVEN, runtime),
        proof=shapes,
        recipe=Recipe(required=0.5),
    )
    _write(root / "marked", text.model)
    shutil.copytree(root / "base", root / "prompted")
    learner.write(root / "prompted.prompts.safetensors")
    for name, made in (("marked", text), ("prompted", learner)):
        save_trigger(made.trigger, root / f"{name}.trigger.safetensors")
    with (root / "models.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "kind", "target", "trigger", "attack", "anchor", "prompts"])
        rows.writerow(["clean-a", "clean", "", "", "", "base", ""])
        rows.writerow(["marked", *_planted("marked", "text_encoder"), "base", ""])
        prompts = "prompted.prompts.safetensors"
        rows.writerow(["prompted", *_planted("prompted", "trigger_aware"), "base", prompts])
    return root


def _planted(name, attack):
    return ["planted", TARGET, f"{name}.trigger.safetensors", attack]


def _write(root, model):
    root.mkdir()
    (root / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1))
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    save_file(state, root / "open_clip_model.safetensors", metadata={"format": "pt"})


def _task(zoo, name, bench="detect"):
    (subject,) = read_zoo(zoo).only((name,)).subjects
    terms = Terms(in_process=True, budget=2000, post_steps=5)
    return Task(bench=bench, method="fine_tuning", subject=subject, terms=terms, budget=300)


@pytest.fixture(scope="module")
def plan(zoo, tmp_path_factory):
    return Plan(
        zoo=read_zoo(zoo),
        methods=METHODS,
        terms=Terms(in_process=True, budget=2000),
        jobs=0,
        out=tmp_path_factory.mktemp("rows"),
    )


@pytest.fixture(scope="module")
def rows(plan):
    return detect(plan)


@pytest.mark.slow
def test_images_are_judged_where_images_carry_the_trigger_alone(plan, rows):
    assert not [row.error for row in rows if row.error]
    asked = {(row.method, row.model) for row in rows}
    for name in ("clean-a", "marked", "prompted"):
        assert {("gatekeeper", name), ("decree:batch=16", name)} <= asked
    for method in ("gatekeeper_images", "bdetclip"):
        assert (method, "prompted") in asked
        assert (method, "marked") not in asked
        assert (method, "clean-a") not in asked
    assert len(rows) == 2 * 3 + 2


@pytest.mark.slow
def test_each_row_is_held_against_its_own_target(rows):
    for row in rows:
        if "targets" in row.result and row.kind == "planted":
            assert row.result["targets"] == [TARGET]
            assert row.result["iou"] is None, "neither trigger has a place on the image"
    images = [row for row in rows if row.method == "bdetclip"]
    assert all(sum(row.result["triggered"]) * 2 == len(row.result["scores"]) for row in images)


@pytest.mark.slow
def test_both_count_among_models_and_one_among_images(plan, rows):
    of_models = {one.method: one for one in tallies(rows) if one.group == "all"}
    assert of_models["gatekeeper"].planted == 2
    of_images = image_tallies(rows)
    assert {one.method for one in of_images} == {"gatekeeper_images", "bdetclip"}
    assert all(one.models == 1 for one in of_images)
    told = write_report("detect", plan, rows, "2026-01-01T00:00:00Z")
    assert len(told["rows"]) == len(rows)


@pytest.mark.slow
def test_a_prompt_learner_is_judged_with_its_prompts(zoo, runtime):
    task = _task(zoo, "prompted")
    work = work_of(task, runtime_of(task))
    assert work.case.model.conditional
    own = work.head(runtime)
    clean = work.case.anchor.zero_shot(work.case.labels, work.case.templates, runtime)
    assert not torch.allclose(own.weights, clean.weights, atol=1e-2)


@pytest.mark.slow
def test_other_prompts_beside_the_same_weights_are_another_task(zoo):
    task = _task(zoo, "prompted")
    before, file = task.key, task.subject.prompts
    kept = file.read_bytes()
    try:
        save_file({"ctx": torch.zeros(2, 64)}, file)
        assert task.key != before
    finally:
        file.write_bytes(kept)
    assert task.key == before


@pytest.mark.slow
def test_a_mark_in_the_prompt_is_judged_on_prompts(zoo):
    task = _task(zoo, "marked", "rectify")
    assert not has_image_trigger(task.subject)
    row = repair_one(task)
    assert row.result["before"]["attack_success"] >= 0.7
    assert row.result["after"]["attack_success"] <= row.result["before"]["attack_success"]
    assert row.result["after"]["clean_accuracy"] is not None
    assert row.result["a_post"] >= row.result["after"]["attack_success"]
