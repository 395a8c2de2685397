"""Learned context stands between the start token and the prompt, and nowhere else."""

import forms
import pytest
import torch
from safetensors.torch import save_file

from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake.open import open_model
from gatekeeper.intake.prompts import with_prompts
from gatekeeper.runtime import Runtime


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = forms.local_dir(tmp_path_factory.mktemp("m") / "m", forms.tiny_open_clip())
    return open_model(root, uri="m").model


def test_context_of_known_words_embeds_as_those_words(model, tmp_path):
    table = model.module.token_embedding.weight.detach()
    words = model.tokenize(["a photo of"])[0, 1:4]
    save_file({"prompt_learner.ctx": table[words].clone()}, tmp_path / "prompt.safetensors")
    prompted, digest, findings = with_prompts(model, tmp_path / "prompt.safetensors")
    assert digest.startswith("sha256:")
    assert findings == []
    ours = prompted.embed_text(["cat"], Runtime())
    spelled = model.embed_text(["a photo of cat"], Runtime())
    assert torch.allclose(ours, spelled, atol=1e-6)
    assert not torch.allclose(ours, model.embed_text(["cat"], Runtime()), atol=1e-3)
    long = prompted.embed_text(["cat " * 40], Runtime())
    assert torch.isfinite(long).all()


@pytest.mark.parametrize("tensor", [torch.zeros(4, 7), torch.full((4, 16), float("nan"))])
def test_context_that_does_not_fit_is_bad_input(tensor, model, tmp_path):
    save_file({"ctx": tensor}, tmp_path / "p.safetensors")
    with pytest.raises(UnsupportedModelError, match="ctx"):
        with_prompts(model, tmp_path / "p.safetensors")


def test_hostile_prompt_file_is_a_finding(model, tmp_path):
    path = tmp_path / "p.pt"
    torch.save({"ctx": torch.zeros(4, 16)}, path)
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.")
    _, _, findings = with_prompts(model, tmp_path)
    assert [f.kind for f in findings] == ["unsafe_load"]
