"""What a tree says of itself, from names and a few kilobytes."""

import gzip
import json
import pickle
import subprocess
import sys
import zipfile

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
    save_file(state, tmp_path / "renamed.weights")
    (tmp_path / "anything.safetensors").unlink()
    assert recognise_folder(tmp_path).kind is Kind.CLIP  # by its content, whatever it is called


def test_foreign_tensors_are_another_model_only_beside_a_config_that_says_so(tmp_path):
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert recognise_folder(tmp_path).kind is Kind.UNKNOWN
    _config(tmp_path, model_type="bert")
    assert recognise_folder(tmp_path).kind is Kind.OTHER
    save_file({"visual.conv1.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert recognise_folder(tmp_path).kind is Kind.UNKNOWN


# Classic models: the flavor is not believed, the bytes are ----------------------------------------

SKLEARN = "flavors:\n  sklearn: {}\n  python_function: {}\n"


def _classic():
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), np.arange(40) % 2
    forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(x, y)
    return [make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y), forest]


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("which", [0, 1])
def test_a_fitted_classic_model_is_another(tmp_path, which, protocol):
    (tmp_path / "MLmodel").write_text(SKLEARN)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(_classic()[which], protocol))
    (tmp_path / "requirements.txt").write_text("scikit-learn\n")
    assert recognise_folder(tmp_path).kind is Kind.OTHER, recognise_folder(tmp_path).why
    assert not holds_clip(tmp_path)


@pytest.mark.parametrize("which", [0, 1])
def test_a_classic_model_kept_by_skops_is_another(tmp_path, which):
    from skops.io import dump

    dump(_classic()[which], tmp_path / "model.skops")
    assert recognise_folder(tmp_path).kind is Kind.OTHER, recognise_folder(tmp_path).why


def _hide(how, path):
    import numpy as np

    state = forms.tiny_open_clip().state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    if how == "torch":
        torch.save(state, path)
    elif how == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif how == "module":
        torch.save(forms.tiny_open_clip(), path)
    elif how == "numpy":
        path.write_bytes(pickle.dumps(arrays))
    elif how == "numpy beside a scaler":
        path.write_bytes(pickle.dumps([_classic()[0], arrays]))
    elif how == "npz":
        with path.open("wb") as stream:
            np.savez(stream, **arrays)
    elif how == "gzip":
        path.write_bytes(gzip.compress(pickle.dumps(arrays)))
    elif how == "call":
        path.write_bytes(b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.")
    elif how == "behind":
        path.write_bytes(pickle.dumps(_classic()[0]) + pickle.dumps(arrays))


@pytest.mark.parametrize("name", ["model.pkl", "model.skops", "notes.txt", "data/weights"])
@pytest.mark.parametrize(
    "how",
    [
        "torch",
        "legacy",
        "module",
        "numpy",
        "numpy beside a scaler",
        "npz",
        "gzip",
        "call",
        "behind",
    ],
)
def test_the_flavor_hides_no_weights(tmp_path, how, name):
    (tmp_path / "MLmodel").write_text(SKLEARN)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    _hide(how, path)
    assert recognise_folder(tmp_path).kind is Kind.UNKNOWN


@pytest.mark.parametrize("name", ["w.bin", "w.pth", "w.onnx", "w.h5", "w.gguf", "w.CKPT"])
def test_what_is_called_weights_is_unknown_whatever_the_flavor(tmp_path, name):
    (tmp_path / "MLmodel").write_text(SKLEARN)
    (tmp_path / name).write_bytes(b"some numbers")
    assert recognise_folder(tmp_path).kind is Kind.UNKNOWN


def test_a_skops_schema_with_other_classes_is_unknown(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.skops", "w") as archive:
        archive.writestr("schema.json", '{"__module__": "torch.nn", "__class__": "Module"}')
    assert recognise_folder(tmp_path).kind is Kind.UNKNOWN


def test_a_tree_of_words_is_another_and_an_empty_one_unknown(tmp_path):
    assert recognise_folder(tmp_path).kind is Kind.UNKNOWN
    (tmp_path / "README.md").write_text("Words.")
    assert recognise_folder(tmp_path).kind is Kind.OTHER


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
    assert recognise_folder(tmp_path).kind is Kind.OTHER
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 4)
    assert recognise_folder(tmp_path).kind is Kind.UNKNOWN


def test_it_needs_no_torch():
    code = (
        "import sys; import gatekeeper.intake.recognise, gatekeeper.intake.digest, "
        "gatekeeper.intake.inspection; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
