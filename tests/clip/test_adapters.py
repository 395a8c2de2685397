"""A config is somebody else's word: it can neither reach the network nor exhaust the machine."""

import copy

import pytest
import torch
from huggingface_hub import constants

from gatekeeper.clip import adapters_open_clip as open_clip_towers
from gatekeeper.clip import adapters_transformers as transformers_towers
from gatekeeper.clip.adapters_tokenizers import for_open_clip, from_folder
from gatekeeper.errors import UnsupportedModelError

CFG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 8, "heads": 2, "layers": 1},
}


def _with(part: str, **change):
    cfg = copy.deepcopy(CFG)
    cfg[part] |= change
    return cfg


@pytest.mark.parametrize(
    ("cfg", "word"),
    [
        (_with("vision_cfg", layers=10**9), "layers"),
        (_with("text_cfg", vocab_size=10**12), "vocab_size"),
        (_with("vision_cfg", timm_model_name="hf-hub:evil/model"), "timm"),
        (_with("vision_cfg", timm_model_name="local-dir:/etc"), "timm"),
        (_with("vision_cfg", nonsense=1), "cannot build"),
        (_with("text_cfg", hf_model_name="nobody/nothing-here"), "cannot build"),
        ({"embed_dim": 8}, "vision_cfg"),
    ],
)
def test_config_that_reaches_too_far_is_refused(cfg, word):
    with pytest.raises(UnsupportedModelError, match=word) as error:
        open_clip_towers.build_module(cfg, "meta")
    assert error.value.hint
    assert constants.HF_HUB_OFFLINE in (True, False)


def test_building_leaves_the_random_state_and_the_config_alone():
    cfg = copy.deepcopy(CFG)
    before = torch.random.get_rng_state()
    open_clip_towers.build_module(cfg)
    assert torch.equal(before, torch.random.get_rng_state())
    assert cfg == CFG


def test_other_transformers_models_are_refused():
    with pytest.raises(UnsupportedModelError, match="'bert'"):
        transformers_towers.build_module({"model_type": "bert"})
    with pytest.raises(UnsupportedModelError, match="num_hidden_layers"):
        transformers_towers.build_module(
            {"model_type": "clip", "vision_config": {"num_hidden_layers": 10**7}}
        )


def test_missing_and_broken_tokenizers_say_what_to_do(tmp_path):
    assert from_folder(tmp_path, 8) is None
    with pytest.raises(UnsupportedModelError, match="needs the tokenizer") as error:
        for_open_clip(_with("text_cfg", hf_tokenizer_name="nobody/nothing"), tmp_path)
    assert "tokenizer.json" in error.value.hint
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="cannot be read"):
        from_folder(tmp_path, 8)
