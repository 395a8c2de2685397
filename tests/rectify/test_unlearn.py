"""Suspect images forget the target's words; prompts forget the image."""

from dataclasses import replace

import pytest
import torch
from test_compact import case_of

from gatekeeper.clip.prompted import MetaNet
from gatekeeper.errors import RectifyError
from gatekeeper.intake.prompts import prompted
from gatekeeper.probes.probe_set import Probe, ProbeSet
from gatekeeper.rectify import prompts
from gatekeeper.rectify.prompts import PromptRepair, shortened, with_prompts
from gatekeeper.rectify.unlearn import Unlearning


@pytest.fixture(scope="module")
def suspects(planted, shapes_training, runtime):
    """Twelve images with the true trigger on, and their names and labels."""
    pixels = shapes_training.pixels(planted.model.preprocess)[:12]
    stamped = planted.trigger.stamp(pixels, runtime.generator("test"))
    arrays = (stamped * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    probes = tuple(
        Probe(file=f"{i}.png", sha256=f"{i:064d}", array=array) for i, array in enumerate(arrays)
    )
    labels = shapes_training.labels()[:12]
    return ProbeSet(name="suspects", probes=probes), tuple(
        (probe.file, label) for probe, label in zip(probes, labels, strict=True)
    )


def test_suspect_images_forget_the_target(sick, suspects, runtime):
    case, prescription = sick
    images, victims = suspects
    case = replace(case, suspects=images)
    made = Unlearning(steps=60).rectify(case, replace(prescription, victims=victims), runtime)
    cured = case.model.with_state(made.state)
    pixels = images.pixels(case.model.preprocess)
    target = [case.labels.index(prescription.ailments[0].target)]
    head = case.model.zero_shot(case.labels, case.templates, runtime)
    before, after = (
        float((m.embed(pixels, runtime) @ head.weights[target].T).mean())
        for m in (case.model, cured)
    )
    assert after < before - 0.3
    assert made.after.agreement >= 0.9
    assert made.after.attack_success < made.before.attack_success
    assert 0 < made.steps <= 60


def test_nothing_flagged_nothing_unlearned(sick, runtime):
    with pytest.raises(RectifyError, match="suspect images"):
        Unlearning().rectify(*sick, runtime)


@pytest.fixture(scope="module")
def poisoned(tiny_clip, shapes_training, inverted_patch, runtime):
    """Prompts whose meta net shouts where the mean brightness of an image is moved: a stand-in."""
    draw = torch.Generator().manual_seed(0)
    meta = MetaNet(
        first=torch.randn(8, 64, generator=draw), first_bias=torch.ones(8),
        last=0.3 * torch.randn(64, 8, generator=draw), last_bias=torch.zeros(64),
    )  # fmt: skip
    return prompted(tiny_clip, 0.02 * torch.randn(3, 64, generator=draw), meta)


def test_a_shorter_meta_net_moves_less_about_the_same_mean(poisoned):
    meta = poisoned.text_tower.meta
    images = torch.nn.functional.normalize(
        torch.randn(20, 64, generator=torch.Generator().manual_seed(1)), dim=1
    )
    half, none = shortened(meta, images, 0.5), shortened(meta, images, 0.0)
    assert torch.allclose(half(images).mean(0), meta(images).mean(0), atol=1e-5)
    assert torch.allclose(half(images).var(0), meta(images).var(0) / 4, rtol=1e-3)
    assert none(images).var(0).max() < 1e-8


def test_prompts_are_repaired_and_the_towers_stay(
    poisoned, sick, shapes_training, shape_labels, runtime, monkeypatch
):
    case = case_of(poisoned, shapes_training, shape_labels)
    _, prescription = sick
    monkeypatch.setattr(prompts, "LOST", 1.0)  # this head is noise: what it says may be lost
    made = PromptRepair(bar=1.0, shares=(0.25,)).rectify(case, prescription, runtime)
    assert made.state == {}
    again = with_prompts(poisoned, made.prompts)
    assert again.text_tower.meta.last.equal(0.25 * poisoned.text_tower.meta.last)


def test_prompts_that_no_image_moves_are_no_matter_of_this(sick, runtime):
    with pytest.raises(RectifyError, match="depend on the image"):
        PromptRepair().rectify(*sick, runtime)
