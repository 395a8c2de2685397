"""One tiny CLIP in every form that the real libraries write."""

import json
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import torch
from safetensors.torch import save_file
from torch import nn

from gatekeeper.clip.adapters_open_clip import build_module

OPEN_CLIP_CFG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS_CFG = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def tiny_open_clip(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        module = build_module(OPEN_CLIP_CFG)
        for parameter in module.parameters():  # biases start at 0 and would prove nothing
            parameter.data += 0.02 * torch.randn_like(parameter)
    return module


def write_config(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": OPEN_CLIP_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=1))


def local_dir(folder: Path, module: nn.Module) -> Path:
    write_config(folder)
    state = {k: v.contiguous() for k, v in module.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt", "by": "me"})
    return folder


def half_local_dir(folder: Path, module: nn.Module) -> Path:
    write_config(folder)
    state = {k: v.half().contiguous() for k, v in module.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def bin_local_dir(folder: Path, module: nn.Module) -> Path:
    write_config(folder)
    torch.save(module.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def legacy_local_dir(folder: Path, module: nn.Module) -> Path:
    write_config(folder)
    path = folder / "open_clip_pytorch_model.bin"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    return folder


def training_checkpoint(folder: Path, module: nn.Module) -> Path:
    """What open_clip's own training loop leaves: a wrapped state dict beside the optimizer."""
    write_config(folder)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    state = {f"module.{k}": v for k, v in module.state_dict().items()}
    checkpoint = {
        "epoch": 3,
        "name": "run",
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(checkpoint, folder / "epoch_3.pt")
    return folder


def mlflow_pickle(folder: Path, module: nn.Module) -> Path:
    import mlflow.pytorch

    mlflow.pytorch.save_model(
        module, folder, serialization_format="pickle", pip_requirements=["torch"]
    )
    return folder


def mlflow_state_dict(folder: Path, module: nn.Module) -> Path:
    import mlflow.pytorch

    folder.mkdir(parents=True)
    mlflow.pytorch.save_state_dict(module.state_dict(), folder)
    return folder


def mlflow_pt2(folder: Path, module: nn.Module) -> Path:
    import mlflow.pytorch
    import numpy as np

    mlflow.pytorch.save_model(
        module.visual,
        folder,
        input_example=np.zeros((2, 3, 32, 32), np.float32),
        serialization_format="pt2",
        pip_requirements=["torch"],
    )
    return folder


def mlflow_pyfunc(folder: Path, module: nn.Module) -> Path:
    import mlflow.pyfunc

    artifacts = local_dir(folder.parent / f"{folder.name}-source" / "clip", module)
    code = folder.parent / f"{folder.name}_clip.py"
    code.write_text(
        "import mlflow\n"
        "class Clip(mlflow.pyfunc.PythonModel):\n"
        "    def load_context(self, context):\n        pass\n"
        "    def predict(self, context, model_input, params=None):\n        return model_input\n"
        "mlflow.models.set_model(Clip())\n"
    )
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(code),
        artifacts={"clip": str(artifacts)},
        pip_requirements=["mlflow"],
    )
    return folder


def plain_artifacts(folder: Path, module: nn.Module) -> Path:
    local_dir(folder / "weights" / "v1", module)
    (folder / "README.md").write_text("cats and dogs\n")
    return folder


OPEN_CLIP_FORMS: dict[str, tuple[Callable[[Path, nn.Module], Path], str]] = {
    "local-dir": (local_dir, "open_clip"),
    "half": (half_local_dir, "open_clip"),
    "bin": (bin_local_dir, "open_clip"),
    "legacy": (legacy_local_dir, "open_clip"),
    "training": (training_checkpoint, "open_clip"),
    "mlflow-pickle": (mlflow_pickle, "pytorch"),
    "mlflow-state-dict": (mlflow_state_dict, "artifacts"),
    "mlflow-pyfunc": (mlflow_pyfunc, "pyfunc"),
    "artifacts": (plain_artifacts, "artifacts"),
}


def clip_tokenizer_files(folder: Path) -> None:
    """CLIP's public vocabulary as transformers saves it, made from open_clip's own copy."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    own = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in own.encoder.items()}
    CLIPTokenizer(vocab=vocabulary, merges=list(own.bpe_ranks)).save_pretrained(folder)


def tiny_clip_model(seed: int = 0) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config={
            **common,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "eos_token_id": 49407,
            "bos_token_id": 49406,
        },
        vision_config={**common, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        return CLIPModel(config).eval()


def tiny_siglip_model(seed: int = 0) -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = SiglipConfig(
        text_config={
            **common,
            "num_attention_heads": 2,
            "max_position_embeddings": 16,
            "vocab_size": 64,
            "projection_size": 16,
        },
        vision_config={**common, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
    )
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        return SiglipModel(config).eval()


def siglip_tokenizer_files(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", "a", "photo", "of", "cat", "dog", "ship"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**special, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
