"""Learned context vectors beside a model: a prompt learner, put in front of every prompt.

A prompt learner (CoOp, arXiv:2109.01134, eq. 2) is a handful of vectors that stand between the
start token and the label's own tokens. They are weights as much as the towers are: a backdoored
prompt makes a clean model misbehave, so they are read with the same care and scanned with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake import static_findings, tensors
from gatekeeper.intake.child import inspect_tree
from gatekeeper.intake.digest import tree_digest
from gatekeeper.types import Finding

NAMES = ("ctx", "prompt_learner.ctx", "context", "context_vectors", "prompt_embeddings")
_EMBEDDINGS = (
    "token_embedding",
    "text.token_embedding",
    "text_model.embeddings.token_embedding",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptedText:
    """A text tower that reads `context` ([n, width]) between the start token and the prompt."""

    inner: Callable[[nn.Module, Tensor], Tensor]
    context: Tensor
    embedding: str  # name of the token embedding within the module

    def __call__(self, module: nn.Module, tokens: Tensor) -> Tensor:
        """Return ([B, L] int64) text embeddings [B, D], not unit length."""
        count = len(self.context)
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


def with_prompts(model: ClipModel, path: Path) -> tuple[ClipModel, str, list[Finding]]:
    """Return the model with the learned context in `path`, its digest, and findings.

    Raises:
        IntakeError: No such path.
        UnsupportedModelError: No context vectors in it, or of another width than the model's.
    """
    digest, files = tree_digest(path)
    reports = inspect_tree(path, [f.path for f in files])
    findings = list(static_findings.of_files(reports))
    places: dict[str, tensors.Place] = {}
    for name, report in reports.items():
        found = tensors.places_of(name, report)
        places |= {n: p for n, p in found.items() if n in NAMES or n.endswith(".ctx")}
    if len(places) != 1:
        raise UnsupportedModelError(
            f"--prompts {path} holds {len(places)} context tensors, expected one",
            hint=f"one tensor [vectors, width] called one of: {', '.join(NAMES)}",
        )
    (name,) = places
    context = tensors.read(path, places)[name].float().clone()
    embedding = _embedding_of(model.module, _EMBEDDINGS)
    weight: Tensor = model.module.get_submodule(embedding).weight  # type: ignore[assignment]
    width = weight.shape[1]
    if context.ndim != 2 or context.shape[1] != width or not torch.isfinite(context).all():
        raise UnsupportedModelError(
            f"{name} in {path} has shape {list(context.shape)}, the text tower takes [n, {width}] "
            "of finite numbers",
            hint="class-specific contexts ([classes, n, width]) are not supported",
        )
    text = PromptedText(inner=model.text_tower, context=context, embedding=embedding)
    return replace(model, text_tower=text, _heads={}), digest, findings


def _embedding_of(module: nn.Module, names: Sequence[str]) -> str:
    known = {name for name, _ in module.named_modules()}
    for name in names:
        if name in known:
            return name
    raise UnsupportedModelError(
        "this text tower has no token embedding that a learned context could join",
        hint="scan the model without --prompts",
    )
