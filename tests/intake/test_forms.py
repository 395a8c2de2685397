"""Every MODEL form that the real libraries write is read as they read it, and written back."""

import shutil
from pathlib import Path

import forms
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from gatekeeper.errors import DigestMismatchError, RectifyError, UnsupportedModelError
from gatekeeper.intake.digest import tree_digest
from gatekeeper.intake.open import Opened, open_model
from gatekeeper.intake.write import write_like
from gatekeeper.runtime import Runtime

PROMPTS = ("a photo of a cat.", "A photo of two dogs!")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def module():
    return forms.tiny_open_clip()


@pytest.fixture(scope="module")
def anchor(module, tmp_path_factory) -> Opened:
    return open_model(forms.local_dir(tmp_path_factory.mktemp("anchor") / "a", module), uri="a")


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def _needs_anchor(form: str) -> bool:
    return form in ("mlflow-pickle", "mlflow-state-dict")  # no config travels with these


@pytest.fixture(scope="module", params=forms.OPEN_CLIP_FORMS)
def opened(request, module, anchor, tmp_path_factory):
    make, form = forms.OPEN_CLIP_FORMS[request.param]
    root = make(tmp_path_factory.mktemp(request.param) / "model", module)
    found = open_model(root, uri="m", anchor=anchor if _needs_anchor(request.param) else None)
    return request.param, form, root, found


def test_form_is_named_and_embeds_as_the_library_does(opened, module, pixels):
    name, form, _, found = opened
    assert found.form == form
    model = found.model
    with torch.no_grad():
        image = module.encode_image(model.preprocess.normalise(pixels), normalize=True)
        from open_clip import SimpleTokenizer

        text = module.encode_text(SimpleTokenizer(context_length=16)(PROMPTS), normalize=True)
    # float16 weights carry 11 bits; everything else must be exact
    tolerance = 2e-3 if name == "half" else 1e-6
    assert (model.embed(pixels, Runtime()) - image).abs().max() < tolerance
    assert (model.embed_text(PROMPTS, Runtime()) - text).abs().max() < tolerance


def test_honest_form_has_no_critical_finding(opened):
    assert opened[3].counts() == {
        "static.unsafe_load": 0,
        "static.malformed_file": 0,
        "static.altered_settings": 0,
    }


def test_write_like_changes_the_weights_and_nothing_else(opened, anchor, tmp_path):
    name, _, root, found = opened
    state = found.model.state_dict()
    parts = ("visual", "final")  # the image tower's, and the norm that ends the text tower
    moved = [k for k in state if k in found.names and any(part in k for part in parts)]
    wanted = {k: (v * 1.25 if k in moved else v) for k, v in state.items()}
    write_like(found, wanted, root, tmp_path / "out")
    again = open_model(tmp_path / "out", uri="m", anchor=anchor if _needs_anchor(name) else None)
    assert again.form == found.form
    assert again.counts() == found.counts()
    for key, value in again.model.state_dict().items():
        torch.testing.assert_close(
            value,
            wanted[key],
            rtol=1e-3 if name == "half" else 0,
            atol=1e-4 if name == "half" else 0,
        )
    assert {f.path for f in set(found.ref.files) ^ set(again.ref.files)} == {found.weights_file}
    assert tree_digest(root)[0] == found.ref.digest  # the original is untouched


def test_write_like_of_the_same_weights_is_the_same_bytes(opened, tmp_path):
    _, _, root, found = opened
    write_like(found, found.model.state_dict(), root, tmp_path / "out")
    assert tree_digest(tmp_path / "out")[0] == found.ref.digest


def test_rewritten_pickle_loads_in_torch(module, anchor, tmp_path):
    root = forms.mlflow_pickle(tmp_path / "model", module)
    found = open_model(root, uri="m", anchor=anchor)
    wanted = {k: v + 1 for k, v in found.model.state_dict().items()}
    write_like(found, wanted, root, tmp_path / "out")
    again = torch.load(tmp_path / "out" / found.weights_file, weights_only=False)
    assert torch.equal(again.state_dict()["visual.proj"], wanted["visual.proj"])


def test_pt2_takes_its_text_tower_from_the_anchor(module, anchor, pixels, tmp_path):
    root = forms.mlflow_pt2(tmp_path / "model", module)
    alone = open_model(root, uri="m")
    assert alone.model is None
    assert [f.kind for f in alone.findings if f.kind == "text_tower_missing"]
    assert alone.counts()["static.unsafe_load"] == 0
    found = open_model(root, uri="m", anchor=anchor)
    assert torch.equal(found.model.embed(pixels, Runtime()), anchor.model.embed(pixels, Runtime()))
    wanted = {k: v * 1.5 for k, v in found.model.state_dict().items() if k.startswith("visual.")}
    write_like(found, wanted, root, tmp_path / "out")
    program = torch.export.load(tmp_path / "out" / found.weights_file)
    assert torch.equal(program.state_dict["conv1.weight"], wanted["visual.conv1.weight"])
    text = {"text_projection": found.model.state_dict()["text_projection"] + 1}
    with pytest.raises(RectifyError, match="no such tensor"):
        write_like(found, text, root, tmp_path / "out2")


def test_views_halves_and_transposes_are_rebuilt_exactly(tmp_path, module):
    state = module.state_dict()
    shared = torch.randn(100)
    odd = {
        "view": shared[10:20],
        "again": shared[15:35].reshape(4, 5),
        "transposed": torch.randn(3, 7).t(),
        "bf16": torch.randn(5).bfloat16(),
        "half": torch.randn(5).half(),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 4),
    }
    from gatekeeper.intake.child import inspect_tree
    from gatekeeper.intake.tensors import places_of, read

    for legacy in (False, True):
        path = tmp_path / f"{legacy}.pt"
        torch.save({**state, **odd}, path, _use_new_zipfile_serialization=not legacy)
        report = inspect_tree(path, [path.name])[path.name]
        assert report["broken"] == []
        got = read(path, places_of(path.name, report))
        for key, value in odd.items():
            assert torch.equal(got[key], value), key
            assert got[key].dtype == value.dtype


@pytest.mark.parametrize("layout", ["folder", "sharded", "bin", "mlflow", "whole pickle"])
def test_transformers_clip_is_read_as_transformers_reads_it(layout, tmp_path, pixels):
    from transformers import CLIPImageProcessor, CLIPTokenizer

    module = forms.tiny_clip_model()
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    root, arch = _transformers_form(layout, tmp_path, module, processor)
    found = open_model(root, uri="m", arch=arch)
    assert found.form == ("checkpoint" if layout == "whole pickle" else "transformers")
    assert not any(found.counts().values())
    with torch.no_grad():
        image = module.get_image_features(pixel_values=found.model.preprocess.normalise(pixels))
        tokens = CLIPTokenizer.from_pretrained(tmp_path / "source")(
            list(PROMPTS), padding="max_length", max_length=16, truncation=True, return_tensors="pt"
        )
        text = module.get_text_features(**tokens)
    embedded = found.model.embed(pixels, Runtime())
    assert torch.allclose(embedded, normalize(image.pooler_output, dim=-1), atol=1e-6)
    embedded = found.model.embed_text(PROMPTS, Runtime())
    assert torch.allclose(embedded, normalize(text.pooler_output, dim=-1), atol=1e-6)
    wanted = {k: v * 1.25 for k, v in found.model.state_dict().items()}
    out = tmp_path / ("out.pth" if root.is_file() else "out")
    write_like(found, wanted, root, out)
    again = open_model(out, uri="m", arch=arch).model.state_dict()
    assert all(torch.equal(again[k], wanted[k]) for k in wanted)


def _transformers_form(layout, tmp_path: Path, module, processor):
    source = tmp_path / "source"
    size = "40KB" if layout == "sharded" else "5GB"
    module.save_pretrained(source, max_shard_size=size)
    processor.save_pretrained(source)
    forms.clip_tokenizer_files(source)
    if layout == "bin":
        torch.save(module.state_dict(), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
    if layout == "whole pickle":
        torch.save(module, tmp_path / "model.pth")
        return tmp_path / "model.pth", str(source / "config.json")
    if layout == "mlflow":
        import mlflow.transformers
        from transformers import CLIPTokenizer

        parts = {
            "model": module,
            "image_processor": processor,
            "tokenizer": CLIPTokenizer.from_pretrained(source),
        }
        mlflow.transformers.save_model(
            parts,
            tmp_path / "mlflow",
            task="zero-shot-image-classification",
            pip_requirements=["torch"],
        )
        return tmp_path / "mlflow", None
    return source, None


def test_siglip_is_read_as_transformers_reads_it(tmp_path, pixels):
    from transformers import PreTrainedTokenizerFast, SiglipImageProcessor

    module = forms.tiny_siglip_model()
    module.logit_bias.data.fill_(-10)
    root = tmp_path / "siglip"
    module.save_pretrained(root)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root)
    forms.siglip_tokenizer_files(root)
    found = open_model(root, uri="m")
    assert found.model.bias == -10
    assert found.model.preprocess.resize_mode == "squash"
    tokens = PreTrainedTokenizerFast.from_pretrained(root)(
        ["a photo of a cat"], padding="max_length", max_length=16, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        text = normalize(module.get_text_features(input_ids=tokens).pooler_output, dim=-1)
    assert torch.equal(found.model.tokenize(["a photo of a cat"]), tokens)
    assert torch.allclose(found.model.embed_text(["a photo of a cat"], Runtime()), text, atol=1e-6)


def test_preprocessing_is_open_clips_to_the_pixel(anchor):
    from open_clip import image_transform

    ours = anchor.model.preprocess
    theirs = image_transform(32, is_train=False, mean=ours.mean, std=ours.std)
    generator = np.random.default_rng(0)
    for height, width in ((50, 75), (75, 50), (33, 32), (200, 51)):
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))
        own = ours.normalise(ours.prepare(image)[None])[0]
        assert (own - theirs(image)).abs().max() < 1e-5, (height, width)


def test_bare_checkpoint_needs_an_architecture_and_takes_one(module, tmp_path):
    forms.local_dir(tmp_path / "m", module)
    bare = tmp_path / "weights.safetensors"
    shutil.copy(tmp_path / "m" / "open_clip_model.safetensors", bare)
    with pytest.raises(UnsupportedModelError) as error:
        open_model(bare, uri="m")
    assert "--arch" in error.value.hint
    found = open_model(bare, uri="m", arch=str(tmp_path / "m" / "open_clip_config.json"))
    assert found.form == "checkpoint"
    assert torch.equal(found.model.state_dict()["visual.proj"], module.visual.proj)


def test_wrong_architecture_says_what_does_not_fit(module, tmp_path):
    forms.local_dir(tmp_path / "m", module)
    bare = tmp_path / "weights.safetensors"
    shutil.copy(tmp_path / "m" / "open_clip_model.safetensors", bare)
    with pytest.raises(UnsupportedModelError, match="missing") as error:
        open_model(bare, uri="m", arch="RN50")
    assert "--arch" in error.value.hint
    with pytest.raises(UnsupportedModelError, match="neither an open_clip architecture"):
        open_model(bare, uri="m", arch="ViT-Z-99")


def test_nan_weights_are_critical_and_leave_no_model(module, tmp_path):
    broken = forms.tiny_open_clip()
    broken.visual.proj.data[0, 0] = float("nan")
    found = open_model(forms.local_dir(tmp_path / "m", broken), uri="m")
    assert found.model is None
    assert [f.kind for f in found.findings if f.severity == "critical"] == ["corrupt_weights"]


def test_changed_model_is_not_written(module, tmp_path):
    root = forms.local_dir(tmp_path / "m", module)
    found = open_model(root, uri="m")
    (root / "README.md").write_text("new")
    with pytest.raises(DigestMismatchError):
        write_like(found, {}, root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_numbers_that_the_file_cannot_hold_are_refused(value, module, tmp_path):
    root = forms.half_local_dir(tmp_path / "m", module)
    found = open_model(root, uri="m")
    state = {"visual.proj": torch.full_like(module.visual.proj, value)}
    with pytest.raises(RectifyError, match="NaN"):
        write_like(found, state, root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_clips_in_one_tree_are_refused(module, tmp_path):
    forms.local_dir(tmp_path / "t" / "a", module)
    forms.local_dir(tmp_path / "t" / "b", module)
    with pytest.raises(UnsupportedModelError, match="2 CLIPs"):
        open_model(tmp_path / "t", uri="m")


def test_a_second_weight_file_is_told(module, tmp_path):
    root = forms.local_dir(tmp_path / "m", module)
    torch.save(module.state_dict(), root / "pytorch_model.bin")
    found = open_model(root, uri="m")
    (finding,) = [f for f in found.findings if f.kind == "unscanned_weights"]
    assert finding.evidence["files"] == ["pytorch_model.bin"]
