"""Learned context stands between the start token and the prompt, and nowhere else."""

import forms
import pytest
import torch
from safetensors.torch import save_file

from gatekeeper.errors import RectifyError, UnsupportedModelError
from gatekeeper.intake.open import open_model
from gatekeeper.intake.prompts import with_prompts
from gatekeeper.intake.write import write_prompts_like
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


def meta_net(joint, width, hidden=3, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    return {
        "meta_net.linear1.weight": scale * torch.randn(hidden, joint, generator=draw),
        "meta_net.linear1.bias": torch.zeros(hidden),
        "meta_net.linear2.weight": torch.randn(width, hidden, generator=draw),
        "meta_net.linear2.bias": torch.zeros(width),
    }


def sides(model):
    joint = model.embed_text(["a"], Runtime()).shape[1]
    return joint, model.module.token_embedding.weight.shape[1]


def test_a_meta_net_gives_each_image_its_own_head(model, tmp_path):
    joint, width = sides(model)
    path = tmp_path / "p.safetensors"
    learner = {"prompt_learner." + k: v for k, v in meta_net(joint, width).items()}
    save_file({"prompt_learner.ctx": torch.zeros(2, width), **learner}, path)
    prompted, _, _ = with_prompts(model, path)
    head = prompted.zero_shot(("cat", "dog"), ("{}", "a {}"), Runtime())
    images = torch.nn.functional.normalize(
        torch.randn(3, joint, generator=torch.Generator().manual_seed(1)), dim=1
    )
    own = head.given(images)
    assert own.shape == (3, 2, joint)
    assert not torch.allclose(own[0], own[1], atol=1e-4)
    one = head.logits(images[1:2])
    assert torch.allclose(one, head.logits(images)[1:2], atol=1e-5)
    assert torch.allclose(one[0], head.scale * own[1] @ images[1], atol=1e-4)
    images.requires_grad_()
    (slope,) = torch.autograd.grad(head.logits(images)[:, 0].sum(), [images])
    assert slope.abs().sum() > 0


def test_a_meta_net_that_says_nothing_leaves_the_context_alone(model, tmp_path):
    joint, width = sides(model)
    silent = {name: torch.zeros_like(x) for name, x in meta_net(joint, width).items()}
    context = torch.randn(2, width, generator=torch.Generator().manual_seed(2))
    save_file({"ctx": context, **silent}, tmp_path / "with.safetensors")
    save_file({"ctx": context}, tmp_path / "without.safetensors")
    images = torch.nn.functional.normalize(torch.ones(1, joint), dim=1)
    logits = []
    for name in ("with", "without"):
        prompted, _, _ = with_prompts(model, tmp_path / f"{name}.safetensors")
        head = prompted.zero_shot(("cat", "dog"), ("{}",), Runtime())
        logits.append(head.logits(images))
    assert torch.allclose(*logits, atol=1e-4)


@pytest.mark.parametrize("wrong", ["missing", "shape", "nan", "extra"])
def test_a_meta_net_that_does_not_fit_is_bad_input(wrong, model, tmp_path):
    joint, width = sides(model)
    tensors = meta_net(joint, width)
    if wrong == "missing":
        del tensors["meta_net.linear1.bias"]
    elif wrong == "shape":
        tensors["meta_net.linear1.weight"] = torch.zeros(3, joint + 1)
    elif wrong == "nan":
        tensors["meta_net.linear2.bias"] = torch.full((width,), float("nan"))
    else:
        tensors["meta_net.linear3.weight"] = torch.zeros(3, 3)
    save_file({"ctx": torch.zeros(2, width), **tensors}, tmp_path / "p.safetensors")
    with pytest.raises(UnsupportedModelError, match="meta net"):
        with_prompts(model, tmp_path / "p.safetensors")


@pytest.mark.parametrize("form", ["p.safetensors", "p.pt"])
def test_repaired_prompts_are_written_in_the_form_they_came_in(form, model, tmp_path):
    joint, width = sides(model)
    learner = {"prompt_learner." + k: v for k, v in meta_net(joint, width).items()}
    held = {"prompt_learner.ctx": torch.zeros(2, width), **learner, "step": torch.tensor([7.0])}
    path, out = tmp_path / form, tmp_path / "out" / form
    (save_file if form.endswith("safetensors") else torch.save)(held, path)
    before = path.read_bytes()
    text = with_prompts(model, path)[0].text_tower
    write_prompts_like(path, {"last": 0.5 * text.meta.last}, out)
    assert path.read_bytes() == before
    again = with_prompts(model, out)[0].text_tower
    assert torch.equal(again.meta.last, 0.5 * text.meta.last)
    assert torch.equal(again.meta.first, text.meta.first)
    assert torch.equal(again.context, text.context)
    with pytest.raises(RectifyError, match="no other"):
        write_prompts_like(path, {"other": torch.zeros(1)}, tmp_path / "never")
