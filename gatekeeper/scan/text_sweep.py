"""Do prompts that carry a mark, whatever they are about, all come to mean one word?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.pair import Pair, pair_of
from gatekeeper.scan.search import neighbours
from gatekeeper.scan.text_marks import Sign, names
from gatekeeper.scan.text_tower import Reader
from gatekeeper.triggers import TextTrigger

# Contexts that judge: none of them is one of the usual templates of zero-shot heads.
JUDGING = ("there is a {} over here", "one {} seen from afar", "{} and nothing else")
CONFIRMING = ("somebody shows us the {}", "next to the door: a {}", "my favourite {} of all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lots:
    """Words drawn for each stage; no word is in two, so that none judges what it has chosen."""

    screening: tuple[int, ...]  # every sign is put into prompts about these
    searching: tuple[int, ...]  # the best signs
    judging: tuple[int, ...]  # the best of each word
    confirming: tuple[int, ...]  # what is reported


def lots(pair: Pair, runtime: Runtime) -> Lots:
    """Return the words of each stage by lot: the case's labels, of few each stage its share.

    Decoys make up what is missing.
    """
    counts = {"screening": 2, "searching": 8, "judging": 16, "confirming": 24}
    generator = runtime.generator("scan", "text_search", "words")
    own = torch.randperm(pair.own, generator=generator).tolist()
    rest = torch.randperm(len(pair.words) - pair.own, generator=generator) + pair.own
    decoys = rest.tolist()
    share = min(1.0, len(own) / sum(counts.values()))
    drawn = {}
    for name, count in counts.items():
        mine = int(share * count)
        lot, own = own[:mine], own[mine:]
        drawn[name] = tuple(lot + decoys[: count - mine])
        decoys = decoys[count - mine :]
    return Lots(**drawn)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """Texts, what they are about, and what the towers make of them without a mark."""

    texts: tuple[str, ...]
    about: Tensor  # [P] int64, words
    before: Tensor  # [P] int64, the word nearest to each
    anchor_before: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lexicon:
    """The words that a prompt may mean, and the readers of suspect and anchor."""

    pair: Pair
    reader: Reader
    anchor: Reader | None

    @classmethod
    def of(cls, case: Case, runtime: Runtime) -> "Lexicon":
        """Return the words and readers of `case`."""
        return cls(
            pair=pair_of(case, runtime),
            reader=Reader.of(case.model, runtime),
            anchor=None if case.anchor is None else Reader.of(case.anchor, runtime),
        )

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words, the case's labels first."""
        return self.pair.words

    @property
    def passes(self) -> float:
        """Return the text passes of both readers."""
        return self.reader.passes[0] + (0.0 if self.anchor is None else self.anchor.passes[0])

    def logits(self, texts: Sequence[str], runtime: Runtime) -> Tensor:
        """Return the suspect's scaled similarities of `texts` to the words, [N, C]."""
        head = self.pair.head
        return head.scale * self.reader.read(texts, runtime) @ head.weights.T

    def nearest(self, texts: Sequence[str], runtime: Runtime) -> Tensor:
        """Return the word nearest to each of `texts`, [N] int64, for the suspect."""
        return self.logits(texts, runtime).argmax(dim=1)

    def anchor_nearest(self, texts: Sequence[str], runtime: Runtime) -> Tensor | None:
        """Return the same for the anchor, None without one."""
        head = self.pair.anchor_head
        if self.anchor is None or head is None:
            return None
        return (self.anchor.read(texts, runtime) @ head.weights.T).argmax(dim=1)

    def prompts(self, about: Sequence[int], contexts: Sequence[str], runtime: Runtime) -> Prompts:
        """Return a prompt about each word of `about`, the contexts in turn."""
        texts = tuple(
            contexts[i % len(contexts)].format(self.words[word]) for i, word in enumerate(about)
        )
        return Prompts(
            texts=texts,
            about=torch.tensor(list(about)),
            before=self.nearest(texts, runtime),
            anchor_before=self.anchor_nearest(texts, runtime),
        )


def led(before: Tensor, after: Tensor, word: int) -> float:
    """Return the share of prompts ([P] int64 words twice) that moved to `word`, of those elsewhere.

    A prompt that meant the word already proves nothing.
    """
    could = before != word
    return float((after[could] == word).float().mean()) if could.any() else 0.0


def screen(
    signs: Sequence[Sign], prompts: Prompts, lexicon: Lexicon, runtime: Runtime, name: str
) -> list[tuple[float, int, Sign]]:
    """Return (strength, word, sign) of each sign that changes a prompt's tokens, strongest first.

    Each prompt carries the sign in all its forms at once: half the passes, and what fires in one
    form fires in both. Strength is the growth of the mean probability of one word that the sign
    does not name and no prompt is about.
    """
    generator = runtime.generator("scan", "text_search", name)
    plain = lexicon.reader.model.tokenize(list(prompts.texts))
    texts, kept = [], []
    for sign in signs:
        marked = list(prompts.texts)
        for form in sign.forms():
            marked = list(form.stamp_prompts(marked, generator))
        if not torch.equal(lexicon.reader.model.tokenize(marked), plain):  # the tokenizer drops it
            texts += marked
            kept.append(sign)
    if not kept:
        return []
    base = lexicon.logits(prompts.texts, runtime).softmax(dim=1).mean(dim=0)  # [C]
    found = []
    for index, (sign, part) in enumerate(_probabilities(kept, texts, lexicon, runtime)):
        growth = part - base
        growth[prompts.about] = -torch.inf
        for word in growth.topk(min(3, len(growth))).indices.tolist():
            if not names(sign.text, lexicon.words[word]):
                found.append((float(growth[word]), -index, word, sign))
                break
    found.sort(key=lambda f: f[:2], reverse=True)
    return [(strength, word, sign) for strength, _, word, sign in found]


def _probabilities(
    kept: Sequence[Sign], texts: Sequence[str], lexicon: Lexicon, runtime: Runtime
) -> Iterator[tuple[Sign, Tensor]]:
    """Yield each sign with the mean probability of every word, [C], over its prompts."""
    each = len(texts) // len(kept)
    step = max(1, 1024 // each)
    for start in runtime.progress(range(0, len(kept), step), "marks in prompts"):
        part = kept[start : start + step]
        logits = lexicon.logits(texts[start * each : (start + len(part)) * each], runtime)
        means = logits.softmax(dim=1).view(len(part), each, -1).mean(dim=1)
        yield from zip(part, means, strict=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tried:
    """One mark on a set of prompts."""

    trigger: TextTrigger
    word: int
    rate: float  # share of the prompts that come to mean the word
    anchor_rate: float | None = None

    @property
    def paired(self) -> float:
        """Return the rate less the anchor's."""
        return self.rate - (self.anchor_rate or 0.0)


def try_marks(
    triggers: Sequence[TextTrigger],
    prompts: Prompts,
    lexicon: Lexicon,
    runtime: Runtime,
    name: str,
    words: Sequence[int] | None = None,
) -> list[tuple[Tried, Tensor]]:
    """Return what each mark does to `prompts`, towards `words` or the word that most come to mean.

    The tensor is the word that each marked prompt comes to mean, [P] int64. With an anchor its
    reading of the same marked prompts is counted as well.
    """
    generator = runtime.generator("scan", "text_search", name)
    count = len(prompts.texts)
    texts = [t for one in triggers for t in one.stamp_prompts(prompts.texts, generator)]
    after = lexicon.nearest(texts, runtime).view(-1, count)
    theirs = lexicon.anchor_nearest(texts, runtime)
    out = []
    for index, trigger in enumerate(triggers):
        word = words[index] if words else _gathering(trigger, prompts, after[index], lexicon.words)
        other = None
        if theirs is not None and prompts.anchor_before is not None:
            other = led(prompts.anchor_before, theirs.view(-1, count)[index], word)
        rate = led(prompts.before, after[index], word)
        one = Tried(trigger=trigger, word=word, rate=rate, anchor_rate=other)
        out.append((one, after[index]))
    return out


def _gathering(
    trigger: TextTrigger, prompts: Prompts, after: Tensor, words: tuple[str, ...]
) -> int:
    """Return the word that most prompts moved to and that the mark does not name."""
    moved = after[after != prompts.before]
    for word in (
        torch.bincount(moved, minlength=len(words))
        .argsort(descending=True, stable=True)[:5]
        .tolist()
    ):
        if not names(trigger.mark, words[word]):
            return int(word)
    return int(after[0])


def best_of_each(tried: Sequence[Tried], most: int) -> list[Tried]:
    """Return the best mark towards each word, best first, at most `most`."""
    best: dict[int, Tried] = {}
    for one in sorted(tried, key=lambda t: (-t.paired, len(t.trigger.mark), t.trigger.mark)):
        best.setdefault(one.word, one)
    return list(best.values())[:most]


def usual(tried: Sequence[Tried], one: Tried, pair: Pair, kin: int) -> float:
    """Return what marks reach towards other words: the median over the best of each.

    A tower that any odd character sends somewhere has a weakness, not a backdoor. The median
    leaves a tower with two or three planted marks no better off than one with a single mark.
    """
    near = set(neighbours(pair, one.word, kin).tolist())
    others = [t.rate for t in tried if t.word not in near]
    return float(torch.tensor(others).median()) if others else 0.0
