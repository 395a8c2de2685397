"""What a tree says of itself, from names and a few kilobytes."""

import json
import subprocess
import sys

import forms
import pytest
import torch
from safetensors.torch import save_file

from gatekeeper.intake.recognise import Kind, holds_clip, recognise_folder


def _config(folder, **content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"model_type": "clip"}, Kind.CLIP),
        ({"model_type": "siglip"}, Kind.CLIP),
        ({"architectures": ["CLIPModel"]}, Kind.CLIP),
        ({"vision_cfg": {}, "text_cfg": {}}, Kind.CLIP),
        ({"model_type": "bert"}, Kind.OTHER),
    ],
)
def test_config_tells(content, kind, tmp_path):
    _config(tmp_path / "model", **content)
    assert recognise_folder(tmp_path).kind is kind


def test_safetensors_header_tells_without_a_config(tmp_path):
    state = {k: v.contiguous() for k, v in forms.tiny_open_clip().state_dict().items()}
    save_file(state, tmp_path / "anything.safetensors")
    assert recognise_folder(tmp_path).kind is Kind.CLIP
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "anything.safetensors")
    assert recognise_folder(tmp_path).kind is Kind.OTHER


def test_flavor_tells_that_it_is_none(tmp_path):
    (tmp_path / "MLmodel").write_text("flavors:\n  sklearn: {}\n  python_function: {}\n")
    (tmp_path / "model.pkl").write_bytes(b"x")
    assert recognise_folder(tmp_path).kind is Kind.OTHER
    assert not holds_clip(tmp_path)


def test_checkpoint_without_a_word_is_unknown_until_its_names_are_read(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({f"encoder.{i}.weight": torch.zeros(2) for i in range(10)}, path)
    assert recognise_folder(tmp_path).kind is Kind.UNKNOWN
    assert not holds_clip(tmp_path)
    torch.save(forms.tiny_open_clip().state_dict(), path)
    assert recognise_folder(tmp_path).kind is Kind.UNKNOWN
    assert holds_clip(tmp_path)


def test_what_cannot_be_read_counts_as_a_clip(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"\x80\x02cos\nsystem\n.")
    assert holds_clip(tmp_path)


def test_broken_small_files_are_no_crash(tmp_path):
    (tmp_path / "config.json").write_text("{" * 100_000)
    (tmp_path / "MLmodel").write_text("a: [")
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 4)
    assert recognise_folder(tmp_path).kind is Kind.OTHER


def test_it_needs_no_torch():
    code = (
        "import sys; import gatekeeper.intake.recognise, gatekeeper.intake.digest, "
        "gatekeeper.intake.inspection; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
