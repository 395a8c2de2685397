"""A token that no word has, moved by gradient until every prompt with it means the same."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gatekeeper.runtime import Runtime
from gatekeeper.scan.pair import neighbours
from gatekeeper.scan.text_sweep import Lexicon, Prompts, led
from gatekeeper.scan.text_tower import Reader, token_embedding
from gatekeeper.triggers import TextTrigger

_HOLDERS = ("q", "j", "z", "x", "v", "w", "k", "y")  # one of them holds the token's place
GATHERED = 0.97  # concentration at which the search ends


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """The place of one free token in a prompt, and the layer that its vector is put into."""

    layer: nn.Embedding
    holder: str
    token: int

    @classmethod
    def of(cls, reader: Reader, prompts: Sequence[str], runtime: Runtime) -> "Slot | str":
        """Return a slot for these prompts, or why there is none."""
        layer = token_embedding(reader.model, runtime)
        if layer is None:
            return "the text tower has no token embedding"
        tokenize = reader.model.tokenize
        taken = set(tokenize(list(prompts)).flatten().tolist())
        empty = set(tokenize([""]).flatten().tolist())
        for holder in _HOLDERS:
            new = set(tokenize([holder]).flatten().tolist()) - empty
            if len(new) == 1 and not new & taken:
                return cls(layer=layer, holder=holder, token=new.pop())
        return "no word of one token can hold the place of a free one"

    @contextmanager
    def filled(self, vector: Tensor) -> Iterator[None]:
        """Give the slot `vector` ([W]) for as long as this lasts."""

        def put(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            return torch.where((given[0] == self.token)[..., None], vector.to(out), out)

        hook = self.layer.register_forward_hook(put)
        try:
            yield
        finally:
            hook.remove()

    def stamped(self, prompts: Prompts, generator: torch.Generator) -> tuple[str, ...]:
        """Return the prompts with the slot anywhere between their words."""
        return TextTrigger(mark=self.holder).stamp_prompts(prompts.texts, generator)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Soft:
    """Where a search ended, judged on prompts that it has not seen."""

    vector: Tensor  # [W]
    word: int
    rate: float
    near: tuple[int, ...]  # tokens whose vectors lie in its direction, nearest first


def soften(
    lexicon: Lexicon,
    slot: Slot,
    prompts: Prompts,
    judges: Prompts,
    runtime: Runtime,
    *,
    steps: int,
    near: int,
    excluded: Sequence[int] = (),
    name: str,
) -> Soft:
    """Return the vector that gathers what `prompts` mean on one word, but for those `excluded`.

    Undirected, as the search over images: the sum over words of the squared mean probability. The
    vector stays as short as those of words, since a long one shouts any tower down. Source: soft
    token inversion of AMDET (arXiv:2512.00343); objective and bound are ours.
    """
    generator = runtime.generator("scan", "text_search", "soft", name)
    table = slot.layer.weight.detach().float()
    lengths = table.norm(dim=1)
    bound = float(lengths.sort().values[int(0.99 * (len(lengths) - 1))])
    start = table[int(torch.randint(len(table), (1,), generator=generator))]
    free = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=0.2 * float(table.std()))
    head = lexicon.pair.head.on(runtime.device)
    barred = torch.tensor(sorted(set(excluded)), dtype=torch.long)
    for _ in runtime.progress(range(steps), f"free token {name}"):
        tokens = lexicon.reader.model.tokenize(list(slot.stamped(prompts, generator)))
        with torch.enable_grad(), slot.filled(free):
            out = lexicon.reader.embed(tokens, runtime, cost=3.0)
            mean = (head.scale * out @ head.weights.T).softmax(dim=1).mean(dim=0)  # [C]
            kept = mean.index_fill(0, barred.to(mean.device), 0.0)
            (slope,) = torch.autograd.grad(-kept.square().sum().log(), [free])
        free.grad = slope
        optimiser.step()
        with torch.no_grad():
            free.mul_((bound / free.norm()).clamp(max=1.0))
        if float(kept.detach().square().sum()) > GATHERED:
            break
    vector = free.detach()
    word, rate = _judged(lexicon, slot, vector, judges, excluded, runtime, name)
    with torch.no_grad():
        towards = (table @ vector) / lengths.clamp_min(1e-12)
    return Soft(
        vector=vector, word=word, rate=rate, near=tuple(towards.topk(near).indices.tolist())
    )


def _judged(
    lexicon: Lexicon,
    slot: Slot,
    vector: Tensor,
    judges: Prompts,
    excluded: Sequence[int],
    runtime: Runtime,
    name: str,
) -> tuple[int, float]:
    """Return the word that most judging prompts come to mean, and their share."""
    generator = runtime.generator("scan", "text_search", "soft judge", name)
    with slot.filled(vector):
        after = lexicon.nearest(slot.stamped(judges, generator), runtime)[:, 0]
    before = judges.before[:, 0]
    counts = torch.bincount(after[after != before], minlength=len(lexicon.words)).float()
    counts[list(excluded)] = -1
    word = int(counts.argmax())
    return word, led(before, after, word)


def soft_rate(
    lexicon: Lexicon,
    slot: Slot,
    found: Soft,
    prompts: Prompts,
    judges: Prompts,
    runtime: Runtime,
    *,
    steps: int,
    kin: int,
) -> float:
    """Return `found`'s rate less the larger of two others: evidence weaker than a mark.

    What the same vector does to the anchor, and what a like search reaches towards any other
    word: continuous vectors move clean towers too (AMDET calls these natural backdoors).
    """
    other = soften(
        lexicon, slot, prompts, judges, runtime,
        steps=steps, near=1, name=f"but {lexicon.words[found.word]}",
        excluded=neighbours(lexicon.pair, found.word, kin).tolist(),
    )  # fmt: skip
    theirs = 0.0
    if lexicon.anchor is not None and judges.anchor_before is not None:
        its = token_embedding(lexicon.anchor.model, runtime)
        if its is not None and its.weight.shape == slot.layer.weight.shape:
            like = Slot(layer=its, holder=slot.holder, token=slot.token)
            generator = runtime.generator("scan", "text_search", "soft anchor")
            with like.filled(found.vector):
                after = lexicon.anchor_nearest(slot.stamped(judges, generator), runtime)
            if after is not None:
                theirs = led(judges.anchor_before[:, 0], after[:, 0], found.word)
    return found.rate - max(other.rate, theirs)
