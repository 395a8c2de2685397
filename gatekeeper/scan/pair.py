"""What do suspect and anchor each make of the same pixels, over one vocabulary?"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.runtime import Runtime

VOCABULARY = 500  # words below which decoys are added: few words make any answer look concentrated
ENOUGH = 24  # labels from which a target is looked for among them alone, decoys only competing
KIN = 0.02  # share of the labels that count as like a found one
MIN_PROBES = 8  # fewer images than this say nothing


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """The suspect, its anchor where there is one, and the words they are asked about.

    `words` are the case's labels first, then decoys. A target is looked for among all of them: a
    trigger's pull towards one word is the clearer, the more words it could have pulled to, and it
    may lead to a word that the user did not list.
    """

    model: ClipModel
    anchor: ClipModel | None
    words: tuple[str, ...]
    own: int  # of them, how many are the case's labels
    head: ZeroShot  # the suspect's, over `words`
    anchor_head: ZeroShot | None

    @property
    def decoys(self) -> Tensor:
        """Return the words that no target is looked for among, [k] int64; few labels: none."""
        return torch.arange(self.own, len(self.words) if self.own >= ENOUGH else self.own)

    @property
    def free(self) -> int:
        """Return how many words, the first, a target is looked for among."""
        return len(self.words) - len(self.decoys)

    def logits(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return the suspect's logits [N, C] for `pixels` ([N, 3, H, W] in [0, 1])."""
        return self.head.logits(self.model.embed(pixels, runtime))

    def embed_grad(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return the suspect's unit embeddings [N, D] of `pixels`, with gradient."""
        return self.model.embed_grad(self.model.resized(pixels), runtime)

    def mirrored(self) -> "Pair":
        """Return the anchor in the suspect's place, alone; only where there is one."""
        assert self.anchor is not None  # noqa: S101 - the caller asked
        assert self.anchor_head is not None  # noqa: S101
        return replace(
            self, model=self.anchor, head=self.anchor_head, anchor=None, anchor_head=None
        )

    def exchanged(self) -> "Pair":
        """Return the anchor in the suspect's place and the suspect in its; only where both are."""
        assert self.anchor is not None  # noqa: S101 - the caller asked
        assert self.anchor_head is not None  # noqa: S101
        return replace(
            self,
            model=self.anchor,
            head=self.anchor_head,
            anchor=self.model,
            anchor_head=self.head,
        )

    def answers(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return the suspect's probabilities [N, C] for `pixels` ([N, 3, H, W] in [0, 1])."""
        return self.logits(pixels, runtime).softmax(dim=1)

    def anchor_answers(self, pixels: Tensor, runtime: Runtime) -> Tensor | None:
        """Return the anchor's probabilities [N, C], None without an anchor."""
        logits = self.anchor_logits(pixels, runtime)
        return None if logits is None else logits.softmax(dim=1)

    def anchor_logits(self, pixels: Tensor, runtime: Runtime) -> Tensor | None:
        """Return the anchor's logits [N, C], None without an anchor."""
        if self.anchor is None or self.anchor_head is None:
            return None
        return self.anchor_head.logits(self.anchor.embed(self.at_anchor(pixels), runtime))

    def at_anchor(self, pixels: Tensor) -> Tensor:
        """Return `pixels` at the anchor's input size; only where there is one."""
        assert self.anchor is not None  # noqa: S101 - the caller asked
        return self.anchor.resized(pixels)


def pair_of(case: Case, runtime: Runtime) -> Pair:
    """Return suspect and anchor over the case's labels and, where these are few, decoys.

    Not where each image has prompts of its own: every decoy would cost a text pass an image.
    """
    words = case.labels if case.model.conditional else _vocabulary(case.labels)
    anchor = case.anchor
    return Pair(
        model=case.model,
        anchor=anchor,
        words=words,
        own=len(case.labels),
        head=case.model.zero_shot(words, case.templates, runtime),
        anchor_head=None if anchor is None else anchor.zero_shot(words, case.templates, runtime),
    )


def _vocabulary(labels: tuple[str, ...]) -> tuple[str, ...]:
    from gatekeeper.probes.embedded import default_labels

    if len(labels) >= VOCABULARY:
        return labels
    known = {label.lower() for label in labels}
    decoys = (word for word in default_labels().labels if word.lower() not in known)
    return labels + tuple(decoys)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clean:
    """Some probes, untouched, and what the pair says of them."""

    indices: tuple[int, ...]  # into case.probes
    pixels: Tensor  # [N, 3, S, S]
    logits: Tensor  # [N, C] the suspect's
    before: Tensor  # [N, C] their probabilities
    anchor_logits: Tensor | None  # [N, C]
    anchor_before: Tensor | None

    def first(self, count: int) -> "Clean":
        """Return the first `count` images and what the pair says of them."""
        theirs, before = self.anchor_logits, self.anchor_before
        return Clean(
            indices=self.indices[:count],
            pixels=self.pixels[:count],
            logits=self.logits[:count],
            before=self.before[:count],
            anchor_logits=None if theirs is None else theirs[:count],
            anchor_before=None if before is None else before[:count],
        )


def look(
    case: Case, pair: Pair, indices: tuple[int, ...], runtime: Runtime, *, anchored: bool = True
) -> Clean:
    """Return the probes at `indices` and the pair's answers to them."""
    logits = pair.head.logits(case.embedded(pair.model, indices, runtime))
    theirs = None
    if anchored and pair.anchor is not None and pair.anchor_head is not None:
        theirs = pair.anchor_head.logits(case.embedded(pair.anchor, indices, runtime))
    return Clean(
        indices=indices,
        pixels=case.pixels(indices),
        logits=logits,
        before=logits.softmax(dim=1),
        anchor_logits=theirs,
        anchor_before=None if theirs is None else theirs.softmax(dim=1),
    )


def exchanged(clean: Clean) -> Clean:
    """Return the anchor's answers in the suspect's place and the other way round."""
    assert clean.anchor_logits is not None  # noqa: S101 - the caller asked
    assert clean.anchor_before is not None  # noqa: S101
    return replace(
        clean,
        logits=clean.anchor_logits,
        before=clean.anchor_before,
        anchor_logits=clean.logits,
        anchor_before=clean.before,
    )


SEARCHED = 32  # probes that a search may look at; of a small set, half
HELD_OUT = 48  # probes, at most, that no search has seen


def searched(case: Case, runtime: Runtime) -> tuple[int, ...]:
    """Return the indices of the probes that detectors may look at, the same for all of them."""
    order = shuffled(case, runtime)
    return order[: min(SEARCHED, len(order) // 2)]


def held_out(case: Case, runtime: Runtime) -> tuple[int, ...]:
    """Return the indices of the probes that judge a trigger; no search sees them."""
    order = shuffled(case, runtime)
    start = min(SEARCHED, len(order) // 2)
    return order[start : start + HELD_OUT]


def shuffled(case: Case, runtime: Runtime) -> tuple[int, ...]:
    """Return the indices of all probes, in the order in which a scan looks at them."""
    generator = runtime.generator("scan", "probes")
    return tuple(torch.randperm(len(case.probes), generator=generator).tolist())


def neighbours(pair: Pair, word: int, count: int | None = None) -> Tensor:
    """Return `word` and the words like it, which a half-firing trigger may lead to as well, [k].

    The `count` nearest; without one, of the user's labels the nearest 2 % (one, at least), and the
    decoys that are nearer still.
    """
    near = pair.head.weights @ pair.head.weights[word]
    if count is not None:
        return near.topk(min(count + 1, max(1, len(near) // 2))).indices
    own = min(1 + max(1, round(KIN * pair.own)), pair.own)
    alike = near >= near[: pair.own].topk(own).values[-1]
    alike[word] = True
    return alike.nonzero()[:, 0]


def flips(before: Tensor, after: Tensor, target: int) -> tuple[float, int]:
    """Return the share of images that moved to `target`, and of how many that could.

    `before`, `after`: [N, C] probabilities. An image that had the target already proves nothing.
    """
    could = before.argmax(dim=1) != target
    if not could.any():
        return 0.0, 0
    return float((after[could].argmax(dim=1) == target).float().mean()), int(could.sum())


def rises(before: Tensor, after: Tensor) -> Tensor:
    """Return how much each word's mean probability grew, [C], from [N, C] twice."""
    return (after - before).mean(dim=0)
