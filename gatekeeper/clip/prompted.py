"""A text tower with learned context before every prompt, fixed or drawn from the image."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

AT_ONCE = 2048  # prompts a forward, where every image has its own


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MetaNet:
    """Two linear maps that move the context of a prompt by what the image shows.

    Source: CoCoOp (Zhou et al., arXiv:2203.05557, 3.2).
    """

    first: Tensor  # [H, D]
    first_bias: Tensor  # [H]
    last: Tensor  # [width, H]
    last_bias: Tensor  # [width]

    def __call__(self, images: Tensor) -> Tensor:
        """Return ([B, D] unit image embeddings) one shift for each image, [B, width]."""
        w = {name: value.to(images) for name, value in self.tensors().items()}
        hidden = F.linear(images, w["first"], w["first_bias"]).relu()
        return F.linear(hidden, w["last"], w["last_bias"])

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by field."""
        return {
            "first": self.first,
            "first_bias": self.first_bias,
            "last": self.last,
            "last_bias": self.last_bias,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptedText:
    """A text tower that reads `context` between the start token and the prompt.

    With a meta net each image has a context, and so a head, of its own (`given`); a text alone is
    read as beside an image of which nothing is known (an embedding of zeros).
    """

    inner: Callable[[nn.Module, Tensor], Tensor]
    context: Tensor  # [n, width]; [B, n, width]: one for each prompt
    embedding: str  # name of the token embedding within the module
    meta: MetaNet | None = None

    def __call__(self, module: nn.Module, tokens: Tensor) -> Tensor:
        """Return ([B, L] int64) text embeddings [B, D], not unit length."""
        if self.meta is not None:
            nothing = self.context.new_zeros(1, self.meta.first.shape[1])
            return replace(self, context=self.context + self.meta(nothing), meta=None)(
                module, tokens
            )
        count = self.context.shape[-2]
        gap = tokens.new_zeros(len(tokens), count)
        moved = torch.cat([tokens[:, :1], gap, tokens[:, 1:]], dim=1)[:, : tokens.shape[1]]
        ends = tokens.max(dim=1).values  # CLIP's end token has the highest number
        cut = (moved != ends[:, None]).all(dim=1)  # the prompt was too long: end it where it stops
        moved[cut, -1] = ends[cut]

        def insert(_: nn.Module, __: object, vectors: Tensor) -> Tensor:
            context = self.context.to(vectors).expand(len(vectors), -1, -1)
            return torch.cat([vectors[:, :1], context, vectors[:, 1 + count :]], dim=1)

        hook = module.get_submodule(self.embedding).register_forward_hook(insert)
        try:
            return self.inner(module, moved)
        finally:
            hook.remove()

    def given(self, module: nn.Module, tokens: Tensor, images: Tensor) -> Tensor:
        """Return unit text embeddings [B, C, D] of `tokens` ([C, L]) beside each image ([B, D]).

        Gradients flow to the images and to the context where these ask for them.
        """
        if self.meta is None:
            fixed = F.normalize(self(module, tokens).float(), dim=-1)
            return fixed.expand(len(images), -1, -1)
        learns = images.requires_grad or self.context.requires_grad
        out = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            for part in torch.split(images, max(1, AT_ONCE // len(tokens))):
                context = self.context.to(part) + self.meta(part)[:, None]  # [b, n, width]
                each = context.repeat_interleave(len(tokens), dim=0)
                tower = replace(self, context=each, meta=None)
                texts = tower(module, tokens.repeat(len(part), 1))
                out.append(F.normalize(texts.float(), dim=-1).view(len(part), len(tokens), -1))
        return torch.cat(out)
