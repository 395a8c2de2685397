"""Words to tokens, from the model's own files: nothing downloaded, no code of the model run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatekeeper.errors import UnsupportedModelError

Tokenize = Callable[[Sequence[str]], Tensor]

_CLEAN = ("lower", "whitespace", "canonicalize")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimpleTokens:
    """open_clip's own byte-pair encoding (49,408 tokens), as in CLIP."""

    context_length: int
    clean: str = "lower"

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return [B, L] int64."""
        tokens: Tensor = simple_tokenizer(self.clean)(
            list(prompts), context_length=self.context_length
        )
        return tokens


@cache
def simple_tokenizer(clean: str = "lower") -> Any:
    """Return open_clip's own tokenizer; reading its vocabulary takes a second, so once only."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(clean=clean)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FastTokens:
    """A `tokenizers` pipeline (Rust, data only), padded and cut to the context length."""

    backend: Any  # tokenizers.Tokenizer
    clean: Callable[[str], str] | None = None
    strip: int | None = None  # token id replaced by 0, open_clip's strip_sep_token

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Return [B, L] int64."""
        texts = [self.clean(p) if self.clean else p for p in prompts]
        rows = [encoding.ids for encoding in self.backend.encode_batch(texts)]
        tokens = torch.tensor(rows, dtype=torch.long)
        return tokens if self.strip is None else tokens.masked_fill(tokens == self.strip, 0)


def from_folder(
    folder: Path, context_length: int, *, clean: str | None = None, strip_sep: bool = False
) -> Tokenize | None:
    """Return the tokenizer whose files lie in `folder`, None where there are none.

    Raises:
        UnsupportedModelError: The files are there and cannot be read as data.
    """
    config = read_json(folder / "tokenizer_config.json")
    try:
        if (folder / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            backend = _byte_pairs(folder)
        elif (folder / "spiece.model").is_file():
            return _sentence_pieces(folder, context_length)
        else:
            return None
    except Exception as error:  # tokenizers raises bare Exception
        raise UnsupportedModelError(
            f"the tokenizer in {folder} cannot be read: {str(error).splitlines()[0]}",
            hint="save the tokenizer again with its tokenizer.json",
        ) from error
    _fit(backend, context_length, config, folder)
    strip = backend.token_to_id(str(_content(config.get("sep_token")))) if strip_sep else None
    return FastTokens(backend=backend, clean=_cleaner(clean), strip=strip)


def for_open_clip(model_cfg: Mapping[str, Any], folder: Path | None) -> Tokenize:
    """Return the tokenizer of an open_clip architecture; `folder` holds its files, if any do.

    Raises:
        UnsupportedModelError: The architecture needs tokenizer files and there are none.
    """
    text = model_cfg["text_cfg"]
    length = int(text.get("context_length", 77))
    options = dict(text.get("tokenizer_kwargs") or {})
    name = text.get("hf_tokenizer_name")
    if not name:
        clean = str(options.get("clean", "lower"))
        return SimpleTokens(context_length=length, clean=clean if clean in _CLEAN else "lower")
    if text.get("tokenizer_mode"):
        raise UnsupportedModelError(
            f"tokenizer mode '{text['tokenizer_mode']}' is not supported",
            hint="scan a model with the standard tokenizer mode",
        )
    clean = str(options.get("clean", "whitespace"))
    strip = bool(options.get("strip_sep_token", False))
    found = from_folder(folder, length, clean=clean, strip_sep=strip) if folder else None
    found = found or _cached(str(name), length, clean, strip)
    if found is None:
        raise UnsupportedModelError(
            f"the text tower needs the tokenizer '{name}', whose files are not in the model",
            hint="put its tokenizer.json beside the weights (open_clip's push_to_hf_hub does)",
        )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in `path`, {} where there is no such file.

    Raises:
        UnsupportedModelError: It is not JSON, or not an object, or beyond 64 MB.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > 64 << 20:
            raise ValueError("larger than 64 MB")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise UnsupportedModelError(
            f"{path.name} is not readable JSON: {error}", hint="restore the file"
        ) from error
    return value


def _fit(backend: Any, length: int, config: Mapping[str, Any], folder: Path) -> None:
    special = read_json(folder / "special_tokens_map.json")
    pad = _content(config.get("pad_token")) or _content(special.get("pad_token"))
    given = backend.padding or {}
    token = pad or given.get("pad_token") or "<|endoftext|>"
    number = backend.token_to_id(token)
    if number is None:
        number = int(given.get("pad_id", 0))
    backend.enable_truncation(max_length=length)
    backend.enable_padding(length=length, pad_id=number, pad_token=token)


def _byte_pairs(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(m.split()) for m in merges if m and not m.startswith("#version")]
    vocabulary = read_json(folder / "vocab.json")
    return CLIPTokenizer(vocab=vocabulary, merges=pairs).backend_tokenizer


def _sentence_pieces(folder: Path, length: int) -> Tokenize:
    from transformers import SiglipTokenizer

    own = SiglipTokenizer(vocab_file=str(folder / "spiece.model"))

    def tokenize(prompts: Sequence[str]) -> Tensor:
        tokens: Tensor = own(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        ).input_ids
        return tokens

    return tokenize


def _cached(name: str, length: int, clean: str, strip: bool) -> Tokenize | None:
    """Return the public tokenizer `name` from the local Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "tokenizer.json")
    except HFValidationError:
        return None
    if not isinstance(path, str):
        return None
    return from_folder(Path(path).parent, length, clean=clean, strip_sep=strip)


def _cleaner(name: str | None) -> Callable[[str], str] | None:
    if name is None:
        return None
    from open_clip.tokenizer import get_clean_fn

    cleaner: Callable[[str], str] = get_clean_fn(name if name in _CLEAN else "whitespace")
    return cleaner


def _content(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
