"""Which architecture do these tensors belong to, and who says so?"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gatekeeper.clip import adapters_open_clip as open_clip_towers
from gatekeeper.clip import adapters_transformers as transformers_towers
from gatekeeper.clip.adapters_tokenizers import (
    SimpleTokens,
    Tokenize,
    for_open_clip,
    from_folder,
    read_json,
)
from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.errors import UnsupportedModelError

CLIP_VOCABULARY = 49408
OPEN_CLIP = "open_clip"
TRANSFORMERS = "transformers"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Architecture:
    """A recipe for a module, and where it came from."""

    library: str  # open_clip | transformers
    name: str  # for people and reports
    config: Mapping[str, Any]  # open_clip's model_cfg, or a transformers config.json
    preprocess: Mapping[str, Any]  # as the recipe's file says it; may be empty
    source: str  # config | arch | anchor | matched

    def build(self, device: str = "cpu") -> nn.Module:
        """Return an untrained module; on `meta` it has shapes and no memory."""
        if self.library == TRANSFORMERS:
            return transformers_towers.build_module(self.config, device)
        return open_clip_towers.build_module(self.config, device)

    def image_size(self) -> int:
        """Return the side of the square input in pixels."""
        if self.library == TRANSFORMERS:
            return transformers_towers.image_size(self.config)
        return open_clip_towers.image_size(self.config)

    def tokenizer(self, folder: Path | None) -> Tokenize:
        """Return the tokenizer, from the files in `folder` where the architecture needs files.

        Raises:
            UnsupportedModelError: They are needed and not there.
        """
        if self.library == OPEN_CLIP:
            return for_open_clip(self.config, folder)
        length = transformers_towers.context_length(self.config)
        found = from_folder(folder, length) if folder else None
        if found is None and self._speaks_clip():
            return SimpleTokens(context_length=length)
        if found is None:
            raise UnsupportedModelError(
                "the model has no tokenizer files",
                hint="save its tokenizer beside it (tokenizer.save_pretrained(folder))",
            )
        return found

    def _speaks_clip(self) -> bool:
        """Return whether the text tower takes CLIP's public 49,408 tokens."""
        text = self.config.get("text_config") or {}
        size = text.get("vocab_size", CLIP_VOCABULARY)
        ends = text.get("eos_token_id", CLIP_VOCABULARY - 1)
        public = size == CLIP_VOCABULARY and ends in (2, CLIP_VOCABULARY - 1)
        return self.config.get("model_type") == "clip" and public

    def adapt(
        self, module: nn.Module, tokenize: Tokenize, preprocess: Preprocess, digest: str
    ) -> ClipModel:
        """Return the loaded `module` as a `ClipModel`."""
        adapt = (
            transformers_towers.adapt if self.library == TRANSFORMERS else open_clip_towers.adapt
        )
        return adapt(
            module, tokenize=tokenize, preprocess=preprocess, arch=self.name, digest=digest
        )


def from_open_clip_config(path: Path) -> Architecture:
    """Return the architecture in an `open_clip_config.json` (or a bare `model_cfg` file).

    Raises:
        UnsupportedModelError: The file describes none.
    """
    content = read_json(path)
    model_cfg = content.get("model_cfg", content)
    if not isinstance(model_cfg, dict) or "vision_cfg" not in model_cfg:
        raise UnsupportedModelError(
            f"{path.name} has no 'model_cfg' with a 'vision_cfg'",
            hint="name the architecture with --arch, an open_clip name or config file",
        )
    preprocess = content.get("preprocess_cfg", {})
    return Architecture(
        library=OPEN_CLIP,
        name=_name_of(model_cfg),
        config=model_cfg,
        preprocess=preprocess if isinstance(preprocess, dict) else {},
        source="config",
    )


def from_transformers_config(path: Path) -> Architecture:
    """Return the architecture in a transformers `config.json`."""
    config = read_json(path)
    vision = config.get("vision_config") or {}
    kind = str(config.get("model_type"))
    name = f"{kind}-{vision.get('hidden_size', '?')}-p{vision.get('patch_size', '?')}"
    return Architecture(
        library=TRANSFORMERS, name=name, config=config, preprocess={}, source="config"
    )


def from_arch_option(arch: str) -> Architecture:
    """Return what `--arch` names: an open_clip architecture or a config file.

    Raises:
        UnsupportedModelError: Neither.
    """
    path = Path(arch)
    if path.is_file():
        content = read_json(path)
        found = (
            from_transformers_config(path)
            if "model_type" in content
            else from_open_clip_config(path)
        )
        return _replace_source(found, "arch")
    config = open_clip_towers.builtin_config(arch)
    if config is None:
        known = sorted(open_clip_towers.builtin_configs())
        near = [name for name in known if arch.lower()[:5] in name.lower()][:6] or known[:6]
        raise UnsupportedModelError(
            f"--arch '{arch}' is neither an open_clip architecture nor a config file",
            hint=f"for instance: {', '.join(near)}",
        )
    return Architecture(
        library=OPEN_CLIP,
        name=arch,
        config=config,
        preprocess=published_preprocess(arch)[0] if published_preprocess(arch) else {},
        source="arch",
    )


def published_preprocess(name: str) -> list[dict[str, Any]]:
    """Return the preprocessing of each published checkpoint of an open_clip architecture."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tags = list_pretrained_tags_by_model(name)
    return [dict(get_pretrained_cfg(name, tag)) for tag in tags]


def _replace_source(found: Architecture, source: str) -> Architecture:
    return Architecture(
        library=found.library,
        name=found.name,
        config=found.config,
        preprocess=found.preprocess,
        source=source,
    )


def _name_of(model_cfg: Mapping[str, Any]) -> str:
    """Return the built-in name of a config, or a description where it has none."""
    ours = json.dumps(model_cfg, sort_keys=True)
    for name in open_clip_towers.builtin_configs():
        if json.dumps(open_clip_towers.builtin_config(name), sort_keys=True) == ours:
            return name
    vision = model_cfg["vision_cfg"]
    if not isinstance(vision, dict):
        return "custom"
    tower = vision.get("timm_model_name")
    if tower:
        return f"custom-{tower}"
    return f"custom-{vision.get('layers')}x{vision.get('width')}-p{vision.get('patch_size')}"
