"""Segment Anything is read as tensors, recognised by shapes, and refused with a reason."""

import os
import pickle

import pytest
import torch
from colour_world import picture
from drawn_sam import mobile_names

from gatekeeper.errors import OracleError
from gatekeeper.oracle import sam, tiny_vit
from gatekeeper.oracle.sam import Sam, load, read_tensors, recognise


class _Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["pickle", "torch", "torch beside tensors"])
def test_a_checkpoint_that_would_run_code_is_refused_unrun(tmp_path, form):
    mark, path = tmp_path / "ran", tmp_path / "sam.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(_Hostile(mark)))
    elif form == "torch":
        torch.save(_Hostile(mark), path)
    else:
        torch.save({"mask_decoder.a": torch.ones(2), "extra": _Hostile(mark)}, path)
    with pytest.raises(OracleError, match="not a file of tensors") as caught:
        Sam(checkpoint=path)._model(None)
    assert "only safetensors" in caught.value.hint
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"\x80\x02}q\x00.", b"no model"])
def test_what_is_no_checkpoint_is_an_error(tmp_path, content):
    path = tmp_path / "sam.pth"
    path.write_bytes(content)
    with pytest.raises(OracleError):
        load(path, None)


def test_a_missing_file_is_an_error_with_a_hint(tmp_path):
    with pytest.raises(OracleError, match="no checkpoint file") as caught:
        _ = Sam(checkpoint=tmp_path / "absent.pth").digest
    assert "--oracle regions" in caught.value.hint


def test_another_model_is_no_sam(tmp_path):
    torch.save({"visual.proj": torch.ones(2)}, tmp_path / "clip.pt")
    with pytest.raises(OracleError, match="no Segment Anything"):
        load(tmp_path / "clip.pt", None)


def test_the_wrong_architecture_is_named(mobile_checkpoint):
    with pytest.raises(OracleError, match="those of vit_t") as caught:
        load(mobile_checkpoint, "vit_b")
    assert caught.value.hint.startswith(f"use sam:{mobile_checkpoint}:vit_t")


def test_a_missing_tensor_is_an_error(mobile_checkpoint, tmp_path):
    state = read_tensors(mobile_checkpoint)
    state.pop("mask_decoder.iou_token.weight")
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(OracleError, match="does not fit vit_t"):
        load(tmp_path / "part.pt", None)


def test_the_architecture_is_recognised_by_shapes():
    decoder = {"mask_decoder.iou_token.weight": torch.ones(1, 256)}
    for width, arch in sam.WIDTHS.items():
        state = decoder | {"image_encoder.pos_embed": torch.ones(1, 2, 2, width)}
        assert recognise(state) == arch
    assert recognise(decoder) is None
    assert recognise(decoder | {"image_encoder.pos_embed": torch.ones(1, 2, 2, 5)}) is None


# as the published mobile_sam.pt has them
PUBLISHED = {
    "image_encoder.patch_embed.seq.0.c.weight": (32, 3, 3, 3),
    "image_encoder.patch_embed.seq.2.bn.running_var": (64,),
    "image_encoder.layers.0.blocks.1.conv2.c.weight": (256, 1, 3, 3),
    "image_encoder.layers.0.downsample.conv1.c.weight": (128, 64, 1, 1),
    "image_encoder.layers.2.downsample.conv3.bn.bias": (320,),
    "image_encoder.layers.1.blocks.0.attn.attention_biases": (4, 49),
    "image_encoder.layers.3.blocks.1.mlp.fc1.weight": (1280, 320),
    "image_encoder.layers.2.blocks.5.local_conv.c.weight": (160, 1, 3, 3),
    "image_encoder.neck.2.weight": (256, 256, 3, 3),
    "mask_decoder.iou_token.weight": (1, 256),
}


def test_every_published_name_finds_its_tensor(mobile_model, mobile_checkpoint):
    state = read_tensors(mobile_checkpoint)
    for name, shape in PUBLISHED.items():
        assert tuple(state[name].shape) == shape, name
    assert len(state) == 439
    renamed = tiny_vit.rename(state)
    own = mobile_model.state_dict()
    assert renamed.keys() == own.keys()
    assert all(torch.equal(renamed[name], own[name].float()) for name in own)
    assert not any("norm_head" in name for name in renamed)


def test_the_loaded_model_computes_what_the_saved_one_did(mobile_model, mobile_checkpoint):
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    loaded = load(mobile_checkpoint, "vit_t")
    with torch.inference_mode():
        features = loaded.image_encoder(pixels)
        assert torch.equal(features, mobile_model.image_encoder(pixels))
    assert features.shape == (1, 256, 64, 64)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_digest_is_of_the_bytes_and_the_parameters(mobile_checkpoint, tmp_path):
    one = Sam(checkpoint=mobile_checkpoint)
    copy = tmp_path / "elsewhere.pt"
    copy.write_bytes(mobile_checkpoint.read_bytes())
    assert Sam(checkpoint=copy).digest == one.digest
    assert Sam(checkpoint=copy, points_per_batch=7).digest == one.digest
    assert Sam(checkpoint=copy, points_per_side=4).digest != one.digest
    copy.write_bytes(mobile_checkpoint.read_bytes() + b"\0")
    assert Sam(checkpoint=copy).digest != one.digest


def test_safetensors_are_read_as_well(mobile_model, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "mobile.safetensors"
    state = {k: v.clone().contiguous() for k, v in mobile_model.state_dict().items()}
    save_file(mobile_names(state), path)
    assert recognise(read_tensors(path)) == "vit_t"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OracleError, match="not a file of tensors"):
        read_tensors(path)


def test_the_encoder_is_counted(mobile_checkpoint):
    from gatekeeper.runtime import Runtime

    runtime = Runtime()
    Sam(checkpoint=mobile_checkpoint).at_points(picture("red"), ((5, 5), (30, 30)), runtime)
    assert runtime.meter.image_passes == 1


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit_b", "vit_l", "vit_h"])
def test_the_large_architectures_load_and_answer(arch, tmp_path, runtime):
    """Real architectures, drawn weights: loading, one image, batching; see docs/oracle.md."""
    from segment_anything import sam_model_registry

    path = tmp_path / f"{arch}.pth"
    model = sam_model_registry[arch](checkpoint=None)
    torch.save(model.state_dict(), path)
    del model
    image = picture("red", side=48)
    settings = {"points_per_side": 2, "least_iou": -9.0, "least_stability": 0.0}
    one = Sam(checkpoint=path, arch=arch, points_per_batch=4, **settings)
    several = Sam(checkpoint=path, points_per_batch=2, _loaded=one._loaded, **settings)
    found, again = one.regions(image, runtime), several.regions(image, runtime)
    assert recognise(read_tensors(path)) == arch
    assert [r.box for r in found] == [r.box for r in again]
