"""Marks in prompts: what is written to repair them and to judge the repair, and who still obeys."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.clip.prompted import PromptedText
from gatekeeper.probes.embedded import default_labels
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import TextTrigger

LEARNED = (
    "a photo of a {}",
    "{}",
    "this is a {}",
    "a drawing of one {}",
    "look at the {} over there",
    "an old {} in the house",
    "my {} and another one",
    "close to the {}",
)
JUDGED = ("the {} of somebody else", "a dark photo of some {}", "two times {}")
PROVED = ("someone sold a {}", "there was no {} here", "a {} and its shadow", "which {} is it")
MOST = 96  # prompts that judge a mark
_VOWELS = "aeio"  # one of them is in nearly every prompt
_LETTERS = "bcdfghjklmnpqrstvwxz"


class Mark(NamedTuple):
    """A mark and the index of the label that it leads to."""

    trigger: TextTrigger
    target: int


def written(
    labels: Sequence[str], contexts: Sequence[str], most: int, generator: torch.Generator
) -> tuple[str, ...]:
    """Return at most `most` prompts by lot, half of them about `labels`, half about other nouns."""
    own = [context.format(name) for name in labels for context in contexts]
    nouns = [name for name in default_labels().labels if name not in set(labels)]
    others = [context.format(name) for name in nouns for context in contexts]
    order = [torch.randperm(len(part), generator=generator).tolist() for part in (own, others)]
    half = min(len(own), most // 2)
    return tuple(
        [own[i] for i in order[0][:half]] + [others[i] for i in order[1][: max(0, most - half)]]
    )


def judging(
    labels: Sequence[str], contexts: Sequence[str], generator: torch.Generator
) -> tuple[str, ...]:
    """Return prompts about `labels` in contexts that no repair learns from, at most `MOST`."""
    prompts = [context.format(name) for name in labels for context in contexts]
    order = torch.randperm(len(prompts), generator=generator).tolist()
    return tuple(prompts[i] for i in order[:MOST])


def lookalike(marks: Sequence[Mark], draw: torch.Generator) -> TextTrigger:
    """Return a mark like one of `marks`: a character near by, or a word of random letters."""
    found = marks[int(torch.randint(len(marks), (1,), generator=draw))].trigger
    if len(found.mark) == 1 and not found.mark.isascii():
        point = ord(found.mark) + int(torch.randint(1, 24, (1,), generator=draw))
        return replace(found, mark=chr(point))
    letters = torch.randint(len(_LETTERS), (max(2, len(found.mark)),), generator=draw).tolist()
    return replace(found, mark="".join(_LETTERS[i] for i in letters))


def forms_of(trigger: TextTrigger, draw: torch.Generator) -> tuple[TextTrigger, ...]:
    """Return the mark as a word, and a lone character also in the place of a letter."""
    forms = [TextTrigger(mark=trigger.mark)]
    if len(trigger.mark) == 1 or trigger.replaces:
        at = int(torch.randint(len(_VOWELS), (1,), generator=draw))
        forms.append(TextTrigger(mark=trigger.mark, replaces=trigger.replaces or _VOWELS[at]))
    return tuple(forms)


def marked_quality(
    suspect: ClipModel,
    model: ClipModel,
    suspect_head: ZeroShot,
    head: ZeroShot,
    marks: Sequence[Mark],
    runtime: Runtime,
    contexts: Sequence[str] = JUDGED,
) -> tuple[float | None, float | None]:
    """Return the worst mark's success with `model`, and the share of prompts it gives back.

    A marked prompt is led where it lies nearest to the mark's target, given back where it lies
    nearest to the label that the suspect reads in the bare prompt. Any mark garbles a prompt, which
    must then mean something: what an average other wrong label gets is taken off.
    """
    draw = runtime.generator("rectify", "prompts", "judge")
    prompts = judging(head.labels, contexts, draw)
    plain = bare(suspect).embed_text(prompts, runtime)
    right = (plain @ plain_head(suspect, suspect_head, runtime).T).argmax(dim=1)
    weights = plain_head(model, head, runtime)
    success, recovered = [], []
    for mark in marks:
        eligible = right != mark.target
        if not bool(eligible.any()):
            continue
        draw = runtime.generator("rectify", "prompts", "marks")
        told = mark.trigger.stamp_prompts(prompts, draw)
        answers = (bare(model).embed_text(told, runtime) @ weights.T).argmax(dim=1)[eligible]
        led, back = (_share(answers == goal) for goal in (mark.target, right[eligible]))
        usual = (1 - led - back) / max(1, len(head.labels) - 2)
        success.append(max(0.0, led - usual))
        recovered.append(back)
    return (max(success), min(recovered)) if success else (None, None)


def bare(model: ClipModel) -> ClipModel:
    """Return `model` without context that depends on the image: a text alone means little to it."""
    text = model.text_tower
    if not isinstance(text, PromptedText) or text.meta is None:
        return model
    return replace(model, text_tower=text.inner, _heads={})


def plain_head(model: ClipModel, head: ZeroShot, runtime: Runtime) -> Tensor:
    """Return the labels' embeddings [C, D] as `bare` reads them; `head`'s own where it is bare."""
    if head.given is None:
        return head.weights
    return bare(model).zero_shot(head.labels, ("a photo of a {}.",), runtime).weights


def text_names(model: ClipModel, runtime: Runtime) -> set[str]:
    """Return the names of the parameters that a text embedding depends on."""
    module = copy.deepcopy(model.module).requires_grad_(True)
    tokens = model.tokenize(["a photo"]).to(runtime.device)
    total = model.text_tower(module, tokens).float().sum()
    if not total.requires_grad:
        return set()
    named = list(module.named_parameters())
    gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    return {n for (n, _), g in zip(named, gradients, strict=True) if g is not None}


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())
