"""A planted model and a trigger found on it, and a model whose text tower was planted."""

import pytest
from test_compact import TEMPLATES, case_of, prescribe

from gatekeeper.attacks.plant import plant
from gatekeeper.attacks.text_encoder import TextEncoder
from gatekeeper.probes.labels import Labels
from gatekeeper.triggers.invert import Shape, invert


@pytest.fixture(scope="session")
def inverted_patch(planted, shapes_training, shape_labels, runtime):
    """A patch that leads to the plant's target, found without knowing the true one."""
    head = planted.model.zero_shot(shape_labels, TEMPLATES, runtime)
    pixels = shapes_training.pixels(planted.model.preprocess)[:64]
    return invert(
        planted.model, pixels, head, head.labels.index(planted.target), "patch", runtime,
        steps=60, batch=16, shape=Shape(side=8),
    )  # fmt: skip


@pytest.fixture(scope="session")
def sick(planted, inverted_patch, shapes_training, shape_labels):
    """A case without anchor, and what a scan would prescribe."""
    return (
        case_of(planted.model, shapes_training, shape_labels),
        prescribe(planted.target, inverted_patch),
    )


@pytest.fixture(scope="session")
def planted_text(tiny_clip, shapes, shapes_training, shape_labels, runtime):
    """A word in the prompt that means "green ring" to the text tower."""
    labels = Labels(labels=shape_labels, templates=TEMPLATES)
    attack = TextEncoder(mark="qzx", replaces="", steps=60, words=60, learning_rate=5e-4)
    return plant(tiny_clip, attack, "green ring", shapes_training, labels, runtime, proof=shapes)
