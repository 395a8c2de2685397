"""The last layer of an image tower: its weights, and what it is handed."""

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn
from torch.func import functional_call

from gatekeeper.clip.model import BATCH, ClipModel, Tower
from gatekeeper.runtime import Runtime

# Last layers that map features to embeddings, by the names open_clip and transformers give them.
_HEADS = (
    r"(^|\.)visual\.head\.proj\.weight$",
    r"(^|\.)visual\.head\.fc2\.weight$",
    r"(^|\.)visual\.head\.mlp\.fc2\.weight$",
    r"(^|\.)visual\.attnpool\.c_proj\.weight$",
    r"(^|\.)visual\.proj$",
    r"(^|\.)visual_projection\.weight$",
    r"(^|\.)vision_model\.head\.mlp\.fc2\.weight$",
    r"(^|\.)visual\.trunk\.attn_pool\.mlp\.fc2\.weight$",
)
PROVEN = 2  # images on which features times weights must be the embedding
TOLERANCE = 1e-3  # of a unit embedding
_TRANSPOSED = r"(^|\.)visual\.proj$"  # a bare parameter, [features, D]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """The linear layer that makes embeddings of an image's features."""

    name: str  # of its weights, in the state dict
    weight: Tensor  # [D, features] float32, CPU


def head_of(model: ClipModel, width: int) -> Head | None:
    """Return the last layer of the image tower, None where no known name is there.

    `width` is D, the length of an embedding.
    """
    state = model.state_dict()
    for pattern in _HEADS:
        for name, value in state.items():
            if re.search(pattern, name) and value.dim() == 2 and width in value.shape:
                weight = value.detach().float().cpu()
                return Head(name=name, weight=weight.T if re.search(_TRANSPOSED, name) else weight)
    return None


def features_of(model: ClipModel, head: Head, pixels: Tensor, runtime: Runtime) -> Tensor | None:
    """Return what `head` is handed for `pixels` ([N, 3, S, S] in [0, 1]), [N, features] (CPU).

    None where the tower does more with it than to project it, as SigLIP's do, which add it to what
    they had. The layer is an identity for the time of the look, since not every tower calls it as a
    module; nothing is changed.
    """
    count = head.weight.shape[1]
    device = next(model.module.parameters()).device
    identity = {f"inner.{head.name}": torch.eye(count, device=device)}
    bias = re.sub(r"weight$", "bias", head.name)
    offset = model.state_dict().get(bias) if bias != head.name else None
    if offset is not None:
        identity[f"inner.{bias}"] = torch.zeros(count, device=device)
    tower = _Tower(model.image_tower, model.module)
    parts = []
    try:
        with torch.inference_mode():
            for start in range(0, len(pixels), BATCH):
                part = pixels[start : start + BATCH]
                runtime.meter.images(model.passes(part))
                normalised = model.preprocess.normalise(part.to(runtime.device))
                parts.append(functional_call(tower, identity, (normalised,)).float().cpu())
    except RuntimeError:  # what comes out is not as wide as what goes in
        return None
    seen = torch.cat(parts)
    if seen.shape != (len(pixels), count):
        return None
    again = seen[:PROVEN] @ head.weight.T + (0 if offset is None else offset.float().cpu())
    apart = F.normalize(again, dim=1) - model.embed(pixels[:PROVEN], runtime)
    return seen if float(apart.abs().max()) < TOLERANCE else None


class _Tower(nn.Module):
    """An image tower as a module of its own, so that a weight can be another for one call."""

    def __init__(self, tower: Tower, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._tower = tower

    def forward(self, normalised: Tensor) -> Tensor:
        return self._tower(self.inner, normalised)
