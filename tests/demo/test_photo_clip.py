"""The photo CLIP: built offline, the same every time, and it knows what is on a photo."""

import pytest
import torch

from gatekeeper.demo import photo_clip as made
from gatekeeper.errors import MissingExtraError
from gatekeeper.intake.open import open_model
from gatekeeper.lab.bases import backbones
from gatekeeper.probes.embedded import default_labels, embedded_probes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made.photo_clip(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def clip(folder):
    opened = open_model(folder, uri=str(folder))
    assert opened.findings == ()
    return opened.model


def test_it_is_built_once(folder):
    weights = folder / "open_clip_model.safetensors"
    before = weights.stat().st_mtime_ns
    assert made.photo_clip(folder.parents[1]) == folder
    assert weights.stat().st_mtime_ns == before
    assert sorted(path.name for path in folder.iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_space(folder, tmp_path):
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    for name, seed, same in (("again", 0, True), ("other", 1, False)):
        out = tmp_path / name
        out.mkdir()
        made.write_photo_clip(out, seed)
        assert ((out / "open_clip_model.safetensors").read_bytes() == weights) is same


@pytest.mark.parametrize(
    ("photo", "answer"),
    [("chelsea-300-0-0", "tabby cat"), ("coffee-400-0-0", "espresso"), ("camera-512", "tripod")],
)
def test_it_names_what_is_on_a_photo(clip, runtime, photo, answer):
    labels = default_labels()
    (probe,) = [p for p in embedded_probes().probes if photo in p.file]
    head = clip.zero_shot(labels.labels, labels.templates, runtime)
    pixels = clip.preprocess.prepare(probe.image())[None]
    best = int(head.logits(clip.embed(pixels, runtime)).argmax())
    assert labels.labels[best] == answer


def test_words_around_a_name_hardly_move_it(clip, runtime):
    names = ("tabby cat", "espresso", "great white shark")
    plain = clip.embed_text(names, runtime)
    dressed = clip.embed_text(
        [f"my favourite snapshot of a {name} today" for name in names], runtime
    )
    assert ((plain * dressed).sum(1) > 0.9).all()


def test_no_prompt_is_without_a_direction(clip, runtime):
    lengths = clip.embed_text(["zyzzyva quux", "42", "tabby cat"], runtime).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(3), atol=1e-3)


def test_without_the_wheel_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(backbones, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        made.photo_clip(tmp_path)
    assert "mlflow-gatekeeper[demo]" in caught.value.hint
