"""Learned context vectors beside a model: a prompt learner, put in front of every prompt.

A prompt learner (CoOp, arXiv:2109.01134, eq. 2) is a handful of vectors that stand between the
start token and the label's own tokens; with a meta net (CoCoOp, arXiv:2203.05557) each image moves
them. They are weights as much as the towers are: a backdoored prompt makes a clean model misbehave,
so they are read with the same care and scanned with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.prompted import MetaNet, PromptedText
from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake import static_findings, tensors
from gatekeeper.intake.child import inspect_tree
from gatekeeper.intake.digest import tree_digest
from gatekeeper.types import Finding

NAMES = ("ctx", "prompt_learner.ctx", "context", "context_vectors", "prompt_embeddings")
META = {  # field of MetaNet -> how its tensor's name ends
    "first": "meta_net.linear1.weight",
    "first_bias": "meta_net.linear1.bias",
    "last": "meta_net.linear2.weight",
    "last_bias": "meta_net.linear2.bias",
}
_EMBEDDINGS = (
    "token_embedding",
    "text.token_embedding",
    "text_model.embeddings.token_embedding",
)


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
    others: dict[str, tensors.Place] = {}
    for name, report in reports.items():
        found = tensors.places_of(name, report)
        places |= {n: p for n, p in found.items() if n in NAMES or n.endswith(".ctx")}
        others |= {n: p for n, p in found.items() if "meta_net." in n}
    if len(places) != 1:
        raise UnsupportedModelError(
            f"--prompts {path} holds {len(places)} context tensors, expected one",
            hint=f"one tensor [vectors, width] called one of: {', '.join(NAMES)}",
        )
    (name,) = places
    context = tensors.read(path, places)[name].float().clone()
    embedding = token_embedding(model.module)
    width = width_of(model.module, embedding)
    if context.ndim != 2 or context.shape[1] != width or not torch.isfinite(context).all():
        raise UnsupportedModelError(
            f"{name} in {path} has shape {list(context.shape)}, the text tower takes [n, {width}] "
            "of finite numbers",
            hint="class-specific contexts ([classes, n, width]) are not supported",
        )
    meta = _meta_net(model, tensors.read(path, others), width, path) if others else None
    return prompted(model, context, meta), digest, findings


def places_of_prompts(path: Path) -> tuple[dict[str, tensors.Place], dict[str, str]]:
    """Return where context and meta net lie in `path`, and each file's container.

    Keys of the first: `context`, and the fields of `MetaNet` where there is one. What
    `with_prompts` has accepted is here.
    """
    _, files = tree_digest(path)
    reports = inspect_tree(path, [f.path for f in files])
    places: dict[str, tensors.Place] = {}
    for file, report in reports.items():
        for name, place in tensors.places_of(file, report).items():
            if name in NAMES or name.endswith(".ctx"):
                places["context"] = place
            places |= {part: place for part, ending in META.items() if name.endswith(ending)}
    return places, {file: str(report.get("container", "")) for file, report in reports.items()}


def prompted(model: ClipModel, context: Tensor, meta: MetaNet | None = None) -> ClipModel:
    """Return `model` with `context` ([n, width]) before every prompt, moved by `meta`.

    Raises:
        UnsupportedModelError: The text tower has no token embedding.
    """
    text = PromptedText(
        inner=model.text_tower,
        context=context,
        embedding=token_embedding(model.module),
        meta=meta,
    )
    return replace(model, text_tower=text, _heads={})


def width_of(module: nn.Module, embedding: str) -> int:
    """Return the width of the token embedding called `embedding`."""
    weight: Tensor = module.get_submodule(embedding).weight  # type: ignore[assignment]
    return weight.shape[1]


def _meta_net(model: ClipModel, found: Mapping[str, Tensor], width: int, path: Path) -> MetaNet:
    given = {}
    for part, ending in META.items():
        named = [name for name in found if name.endswith(ending)]
        if len(named) == 1 and torch.isfinite(found[named[0]].float()).all():
            given[part] = found[named[0]].float().clone()
    sides = {part: list(value.shape) for part, value in given.items()}
    hidden = sides.get("first_bias", [0])[0]
    with torch.no_grad():
        joint = model.text_tower(model.module, model.tokenize(["a"])).shape[1]
    wanted = {
        "first": [hidden, joint],
        "first_bias": [hidden],
        "last": [width, hidden],
        "last_bias": [width],
    }
    if len(given) != len(found) or sides != wanted:
        raise UnsupportedModelError(
            f"--prompts {path} holds a meta net of other tensors or shapes than two linear maps "
            f"from {joint} over a hidden width to {width}: {sorted(found)}",
            hint=f"finite tensors whose names end in {', '.join(META.values())}",
        )
    return MetaNet(**given)


def token_embedding(module: nn.Module, names: Sequence[str] = _EMBEDDINGS) -> str:
    """Return the name of the token embedding within `module`.

    Raises:
        UnsupportedModelError: There is none under a known name.
    """
    known = {name for name, _ in module.named_modules()}
    for name in names:
        if name in known:
            return name
    raise UnsupportedModelError(
        "this text tower has no token embedding that a learned context could join",
        hint="scan the model without --prompts",
    )
