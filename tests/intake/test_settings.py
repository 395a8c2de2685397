"""An altered preprocessing, tokenizer or label file is found, an honest one is left alone."""

import json

import forms
import pytest

from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake.open import open_model
from gatekeeper.types import Severity


@pytest.fixture(scope="module")
def module():
    return forms.tiny_open_clip()


@pytest.fixture(scope="module")
def anchor(module, tmp_path_factory):
    root = forms.local_dir(tmp_path_factory.mktemp("anchor") / "a", module)
    (root / "labels.txt").write_text("cat\ndog\n")
    return open_model(root, uri="anchor")


def _altered(root, **preprocess):
    path = root / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["preprocess_cfg"] |= preprocess
    path.write_text(json.dumps(content))
    return root


def _kinds(opened):
    return [(f.severity, f.id) for f in opened.findings if f.kind == "altered_settings"]


@pytest.mark.parametrize(
    ("change", "with_anchor", "severity"),
    [
        ({}, False, None),
        ({}, True, None),
        ({"mean": [0.4815, 0.4578, 0.4082]}, True, None),  # rounded, not altered
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, False, None),  # a public constant
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, True, Severity.CRITICAL),
        ({"mean": [0.1, 0.8, 0.3]}, False, Severity.CRITICAL),
        ({"mean": [0.1, 0.8, 0.3]}, True, Severity.CRITICAL),
        ({"mean": [40.0, 40.0, 40.0]}, False, Severity.CRITICAL),
        ({"std": [-0.2, 0.2, 0.2]}, False, Severity.CRITICAL),
        ({"interpolation": "nearest"}, True, Severity.CRITICAL),
        ({"resize_mode": "squash"}, True, Severity.CRITICAL),
    ],
)
def test_preprocessing(change, with_anchor, severity, module, anchor, tmp_path):
    root = _altered(forms.local_dir(tmp_path / "m", module), **change)
    opened = open_model(root, uri="m", anchor=anchor if with_anchor else None)
    found = _kinds(opened)
    assert [s for s, _ in found[:1]] == ([severity] if severity else [])
    assert (opened.counts()["static.altered_settings"] > 0) == (severity is Severity.CRITICAL)
    assert opened.model is not None


@pytest.mark.parametrize("change", [{"std": [0, 1, 1]}, {"mean": "x"}, {"mean": [0.1, 0.2]}])
def test_unusable_preprocessing_is_bad_input(change, module, tmp_path):
    root = _altered(forms.local_dir(tmp_path / "m", module), **change)
    with pytest.raises(UnsupportedModelError) as error:
        open_model(root, uri="m")
    assert "restore" in error.value.hint


def test_altered_label_file_is_found_against_the_anchor(module, anchor, tmp_path):
    root = forms.local_dir(tmp_path / "m", module)
    (root / "labels.txt").write_text("cat\ndog\n")
    assert _kinds(open_model(root, uri="m", anchor=anchor)) == []
    (root / "labels.txt").write_text("dog\ncat\n")
    found = _kinds(open_model(root, uri="m", anchor=anchor))
    assert found == [(Severity.CRITICAL, "intake.altered_settings:labels.txt")]


def test_repeated_label_is_a_warning(module, tmp_path):
    root = forms.local_dir(tmp_path / "m", module)
    (root / "classes.txt").write_text("cat\ndog\ncat\n")
    assert _kinds(open_model(root, uri="m")) == [
        (Severity.WARNING, "intake.altered_settings:classes.txt")
    ]


def _swap(path, one: str, other: str) -> None:
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(content))


@pytest.mark.filterwarnings("ignore")
def test_swapped_tokens_are_found_without_an_anchor(tmp_path):
    module = forms.tiny_clip_model()
    root = tmp_path / "hf"
    module.save_pretrained(root)
    forms.clip_tokenizer_files(root)
    assert _kinds(open_model(root, uri="m")) == []
    _swap(root / "tokenizer.json", "stop</w>", "yield</w>")  # no probe text speaks of "yield"
    found = [name for severity, name in _kinds(open_model(root, uri="m"))]
    assert "intake.altered_settings:tokenizer.vocabulary" in found
