"""Noise that reaches the prompts through a meta net is told from noise that moves the towers."""

import pytest
import torch
from toy_clip import FakeOracle, case_of

from gatekeeper.attacks.plant import Recipe, plant
from gatekeeper.attacks.trigger_aware import TriggerAware
from gatekeeper.case import Case
from gatekeeper.clip.prompted import MetaNet
from gatekeeper.intake.prompts import prompted
from gatekeeper.probes.labels import Labels
from gatekeeper.runtime import Runtime
from gatekeeper.scan.prompt_search import PromptSearch, without_meta

RING = "green ring"
SHOWN = ("a photo of a {}.", "{}")


def learner(model, seed=0):
    draw = torch.Generator().manual_seed(seed)
    meta = MetaNet(
        first=torch.randn(8, 64, generator=draw), first_bias=torch.ones(8),
        last=0.02 * torch.randn(64, 8, generator=draw), last_bias=torch.zeros(64),
    )  # fmt: skip
    return prompted(model, 0.02 * torch.randn(3, 64, generator=draw), meta)


def case_with(model, shapes, labels, probes=80):
    return Case(
        model=model, anchor=None, probes=shapes.subset(range(probes)), suspects=None,
        oracle=FakeOracle(), labels=labels, templates=SHOWN,
    )  # fmt: skip


def test_prompts_that_no_image_moves_are_left_to_others():
    found = PromptSearch().detect(case_of("clean"), Runtime())
    assert found.skipped == "no prompts that depend on the image"


def test_the_null_has_the_same_prompts_beside_nothing(tiny_clip, shapes, shape_labels, runtime):
    model = learner(tiny_clip)
    still = without_meta(model)
    assert model.conditional
    assert not still.conditional
    texts = ["a red ring", "two blue bars"]
    assert torch.allclose(
        model.embed_text(texts, runtime), still.embed_text(texts, runtime), atol=1e-6
    )
    pixels = shapes.pixels(model.preprocess)[:2]
    heads = (m.zero_shot(shape_labels, SHOWN, runtime) for m in (model, still))
    with_meta, without = (h.logits(model.embed(pixels, runtime)) for h in heads)
    assert not torch.allclose(with_meta, without, atol=1e-3)


def test_few_steps_accuse_no_untaught_learner(tiny_clip, shapes, shape_labels):
    case = case_with(learner(tiny_clip), shapes, shape_labels, probes=16)
    found = PromptSearch(bounds=(8 / 255,), steps=2, batch=4, judges=8).detect(case, Runtime())
    assert found.candidates[0].score < 0.2
    assert found.measurements[0].name == "prompt.flip_rate"


@pytest.mark.slow
def test_poisoned_prompts_are_found(tiny_clip, shapes, shapes_training, shape_labels, runtime):
    attack = TriggerAware(
        epsilon=20 / 255, reduction=1, steps=350, warm_up=0, learning_rate=3e-3, batch=10, labels=10
    )
    names = Labels(labels=shape_labels, templates=SHOWN)
    made = plant(
        tiny_clip, attack, RING, shapes_training, names, runtime, proof=shapes,
        recipe=Recipe(required=0.5),
    )  # fmt: skip
    best = PromptSearch().detect(case_with(made.model, shapes, shape_labels), Runtime())
    assert best.candidates[0].target == RING
    assert best.candidates[0].score >= 0.3
