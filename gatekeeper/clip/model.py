"""What does this CLIP make of these pixels and these words?"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.clip.prompted import PromptedText
from gatekeeper.runtime import Runtime

Tower = Callable[[nn.Module, Tensor], Tensor]  # (module, input) -> [B, D]
Given = Callable[[Tensor], Tensor]  # unit image embeddings [B, D] -> heads [B, C, D]
BATCH = 64  # images or prompts a forward; bounds memory, changes no result


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShot:
    """Labels as unit vectors: the head of a zero-shot classifier."""

    labels: tuple[str, ...]
    weights: Tensor  # [C, D] float32, unit length
    scale: float  # logit scale
    bias: float = 0.0
    given: Given | None = None  # a prompt learner with a meta net: each image has its own weights

    def on(self, device: str | torch.device) -> "ZeroShot":
        """Return the head with its weights on `device`."""
        return replace(self, weights=self.weights.to(device))

    def directions(self, first: int | None = None) -> Tensor:
        """Return what sets each of the `first` labels (None: all) apart from all of them, [C, D].

        Unit length.
        """
        weights = self.weights[:first]
        return F.normalize(weights - weights.mean(dim=0, keepdim=True), dim=1)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return ([B, D] unit, on the head's device) scaled similarities, [B, C]."""
        if self.given is not None:
            own = torch.einsum("bd,bcd->bc", embeddings, self.given(embeddings))
            return self.scale * own + self.bias
        return self.scale * embeddings @ self.weights.T + self.bias

    def probabilities(self, embeddings: Tensor) -> Tensor:
        """Return ([B, D] unit) softmax over the labels, [B, C]."""
        return self.logits(embeddings).softmax(dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipModel:
    """Two towers, whatever library they come from (open_clip or transformers).

    Pixels are float32 RGB [B, 3, H, W] in [0, 1] *before* normalisation; only this class
    normalises. Embeddings are float32 of unit length. Never changed in place: `with_state` and
    `clone` return new models.
    """

    module: nn.Module
    image_tower: Callable[[nn.Module, Tensor], Tensor]  # (module, normalised) -> [B, D]
    text_tower: Callable[[nn.Module, Tensor], Tensor]  # (module, tokens) -> [B, D]
    tokenize: Callable[[Sequence[str]], Tensor]  # prompts -> [B, L] int64
    preprocess: Preprocess
    arch: str
    scale: float  # exp(logit_scale)
    bias: float = 0.0  # SigLIP's
    digest: str = ""  # of the files it came from; keys caches
    _heads: dict[tuple[object, ...], ZeroShot] = field(default_factory=dict, repr=False)

    @property
    def conditional(self) -> bool:
        """Whether each image has a head of its own: every word then costs a text pass an image."""
        return isinstance(self.text_tower, PromptedText) and self.text_tower.meta is not None

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return self.preprocess.size

    def to(self, device: str) -> "ClipModel":
        """Return the model with its weights on `device`."""
        self.module.to(device)
        return self

    def passes(self, pixels: Tensor) -> float:
        """Return what one forward of `pixels` ([B, 3, H, W]) costs in image passes."""
        return len(pixels) * pixels.shape[-1] * pixels.shape[-2] / self.size**2

    def embed(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return unit embeddings [N, D] (CPU) of `pixels` ([N, 3, H, W] in [0, 1]); no gradient."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pixels), BATCH):
                part = pixels[start : start + BATCH]
                runtime.meter.images(self.passes(part))
                parts.append(self._image(part.to(runtime.device)).cpu())
        return torch.cat(parts) if parts else torch.zeros(0, 1)

    def embed_grad(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return unit embeddings [B, D] through which gradients flow; costs three passes each."""
        runtime.meter.images(3 * self.passes(pixels))
        return self._image(pixels)

    def embed_text(self, prompts: Sequence[str], runtime: Runtime) -> Tensor:
        """Return unit embeddings [N, D] (CPU) of `prompts`; no gradient."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(prompts), 4 * BATCH):
                part = list(prompts[start : start + 4 * BATCH])
                runtime.meter.texts(len(part))
                tokens = self.tokenize(part).to(runtime.device)
                parts.append(
                    F.normalize(self.text_tower(self.module, tokens).float(), dim=-1).cpu()
                )
        return torch.cat(parts)

    def zero_shot(
        self, labels: Sequence[str], templates: Sequence[str], runtime: Runtime
    ) -> ZeroShot:
        """Return the zero-shot head of `labels`: the mean of each label's prompts, unit length.

        Source: CLIP (arXiv:2103.00020), section 3.1.4, prompt ensembling in embedding space.
        """
        key = (tuple(labels), tuple(templates))
        if key not in self._heads:
            total = torch.zeros(1)
            for template in templates:
                total = total + self.embed_text([template.format(x) for x in labels], runtime)
            self._heads[key] = ZeroShot(
                labels=tuple(labels),
                weights=F.normalize(total, dim=-1),
                scale=self.scale,
                bias=self.bias,
                given=self._given(labels, templates),
            )
        return self._heads[key]

    def _given(self, labels: Sequence[str], templates: Sequence[str]) -> Given | None:
        """Return the head for each image, where the prompts depend on the image."""
        text = self.text_tower
        if not isinstance(text, PromptedText) or text.meta is None:
            return None
        tokens = [self.tokenize([template.format(x) for x in labels]) for template in templates]

        def given(images: Tensor) -> Tensor:
            device = next(self.module.parameters()).device
            moved = images.to(device)
            heads = [text.given(self.module, part.to(device), moved) for part in tokens]
            return F.normalize(torch.stack(heads).sum(0), dim=-1).to(images)

        return given

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights by name (the library's own names)."""
        return dict(self.module.state_dict())

    def with_state(self, state: Mapping[str, Tensor], digest: str = "") -> "ClipModel":
        """Return a copy of the model with (some of) its weights replaced."""
        module = copy.deepcopy(self.module)
        own = module.state_dict()
        module.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=False)
        return replace(self, module=module.eval(), digest=digest, _heads={})

    def clone(self) -> "ClipModel":
        """Return a copy that can be trained without touching this one."""
        return self.with_state({})

    def resized(self, pixels: Tensor) -> Tensor:
        """Return `pixels` ([B, 3, H, W] in [0, 1]) at this model's own input size."""
        if pixels.shape[-1] == self.size and pixels.shape[-2] == self.size:
            return pixels
        out = F.interpolate(pixels, (self.size, self.size), mode="bicubic", antialias=True)
        return out.clamp(0, 1)

    def _image(self, pixels: Tensor) -> Tensor:
        normalised = self.preprocess.normalise(pixels)
        normalised = normalised.contiguous(memory_format=torch.channels_last)
        return F.normalize(self.image_tower(self.module, normalised).float(), dim=-1)


def adapt_towers(
    module: nn.Module,
    image_tower: Tower,
    text_tower: Tower,
    *,
    tokenize: Callable[[Sequence[str]], Tensor],
    preprocess: Preprocess,
    arch: str,
    digest: str = "",
) -> ClipModel:
    """Return a loaded `module` as a `ClipModel`; open_clip and transformers name the scale alike.

    exp(logit_scale) is held to at most 200: twice CLIP's own limit (arXiv:2103.00020, 2.5).
    """
    scale: Tensor = module.logit_scale  # type: ignore[assignment]
    bias = getattr(module, "logit_bias", None)
    return ClipModel(
        module=module.eval(),
        image_tower=image_tower,
        text_tower=text_tower,
        tokenize=tokenize,
        preprocess=preprocess,
        arch=arch,
        scale=min(math.exp(float(scale.detach().reshape(-1)[0].float())), 200.0),
        bias=0.0 if bias is None else float(bias.detach().reshape(-1)[0]),
        digest=digest,
    )
