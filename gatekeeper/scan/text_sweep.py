"""Do prompts that carry a mark, whatever they are about, all come to mean one word?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.pair import Pair, neighbours, pair_of
from gatekeeper.scan.text_marks import Sign, names, wordy
from gatekeeper.scan.text_tower import Reader
from gatekeeper.triggers import TextTrigger

FEW = 10  # labels below which an answer among them alone says little


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """Texts, what they are about, and what the towers make of them without a mark."""

    texts: tuple[str, ...]
    about: Tensor  # [P] int64, words
    before: Tensor  # [P, 2] int64, the word nearest to each, of all words and of the labels
    anchor_before: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lexicon:
    """The words that a prompt may mean, and the readers of suspect and anchor.

    Where decoys were added, a prompt is asked twice what it means: of all words, and of the case's
    labels alone. A half-learned mark leaves a prompt beside its target, nearer to some decoy that
    nobody asks about.
    """

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
        """Return the words nearest to each of `texts`, [N, 2] int64: of all, and of the labels."""
        return self._both(self.logits(texts, runtime))

    def anchor_nearest(self, texts: Sequence[str], runtime: Runtime) -> Tensor | None:
        """Return the same for the anchor, None without one."""
        head = self.pair.anchor_head
        if self.anchor is None or head is None:
            return None
        return self._both(self.anchor.read(texts, runtime) @ head.weights.T)

    def column(self, word: int) -> int:
        """Return which of the two answers counts for `word`: 1 for one of enough labels."""
        return int(word < self.pair.own and self.pair.own >= FEW)

    def _both(self, logits: Tensor) -> Tensor:
        every = logits.argmax(dim=1)
        own = logits[:, : self.pair.own].argmax(dim=1) if self.pair.own >= FEW else every
        return torch.stack([every, own], dim=1)

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
    """Return the share of prompts ([P] int64 twice) that moved to `word`, of those elsewhere.

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
    base = _means(lexicon.logits(prompts.texts, runtime)[None], lexicon)[0]  # [C]
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
        yield from zip(part, _means(logits.view(len(part), each, -1), lexicon), strict=True)


def _means(logits: Tensor, lexicon: Lexicon) -> Tensor:
    """Return each word's mean probability, [S, C], of logits [S, P, C]; labels as among labels."""
    means = logits.softmax(dim=2).mean(dim=1)
    if lexicon.pair.own >= FEW:
        means[:, : lexicon.pair.own] = logits[:, :, : lexicon.pair.own].softmax(dim=2).mean(dim=1)
    return means


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
    marks: Sequence[tuple[TextTrigger, int | None]],
    prompts: Prompts,
    lexicon: Lexicon,
    runtime: Runtime,
    name: str,
) -> list[tuple[Tried, Tensor]]:
    """Return what each mark does to `prompts`, towards its word.

    Where a mark comes without a word: towards the word that most prompts come to mean, and towards
    the label that they do. The tensor is what each marked prompt comes to mean, [P] int64. With an
    anchor its reading of the same marked prompts is counted as well.
    """
    generator = runtime.generator("scan", "text_search", name)
    count = len(prompts.texts)
    texts = [t for one, _ in marks for t in one.stamp_prompts(prompts.texts, generator)]
    after = lexicon.nearest(texts, runtime).view(-1, count, 2)
    theirs = lexicon.anchor_nearest(texts, runtime)
    out = []
    for index, (trigger, given) in enumerate(marks):
        now = after[index]
        for word in _gathering(trigger, prompts, now, lexicon) if given is None else [given]:
            at = lexicon.column(word)
            other = None
            if theirs is not None and prompts.anchor_before is not None:
                its = theirs.view(-1, count, 2)[index]
                other = led(prompts.anchor_before[:, at], its[:, at], word)
            rate = led(prompts.before[:, at], now[:, at], word)
            one = Tried(trigger=trigger, word=word, rate=rate, anchor_rate=other)
            out.append((one, now[:, at]))
    return out


def _gathering(
    trigger: TextTrigger, prompts: Prompts, after: Tensor, lexicon: Lexicon
) -> list[int]:
    """Return the word, and the label, that most prompts moved to and that the mark names not."""
    found = []
    for column in (0, 1):
        now = after[:, column]
        moved = now[now != prompts.before[:, column]]
        counts = torch.bincount(moved, minlength=len(lexicon.words))
        order = counts.argsort(descending=True, stable=True)[:5].tolist()
        honest = [w for w in order if not names(trigger.mark, lexicon.words[w])]
        found += honest[:1]
    return list(dict.fromkeys(found))


def worth_judging(tried: Sequence[Tried], words: int, each: int) -> list[tuple[TextTrigger, int]]:
    """Return the `each` best marks towards the best word, and the best towards other `words`.

    As many of characters and of words: either judges its own kind.
    """
    out = []
    for kind in (False, True):
        kept: dict[int, list[TextTrigger]] = {}
        for one in sorted((t for t in tried if wordy(t.trigger.mark) is kind), key=_rank):
            most = each if not kept or one.word == next(iter(kept)) else 1
            if len(kept.setdefault(one.word, [])) < most:
                kept[one.word].append(one.trigger)
        out += [(mark, word) for word in list(kept)[:words] for mark in kept[word]]
    return out


def best_of_each(tried: Sequence[Tried]) -> list[Tried]:
    """Return the best mark towards each word, best first."""
    best: dict[int, Tried] = {}
    for one in sorted(tried, key=_rank):
        best.setdefault(one.word, one)
    return list(best.values())


def _rank(one: Tried) -> tuple[float, int, str]:
    return -one.paired, len(one.trigger.mark), one.trigger.mark


def usual(tried: Sequence[Tried], one: Tried, pair: Pair, kin: int) -> float:
    """Return what marks reach towards other words: of the best towards each, the second best.

    Less the anchor's rates, where there are any. A tower that odd characters send here and there
    has a weakness, not a backdoor. Not the best, or a tower with two planted marks would excuse
    itself. A character is compared with characters alone: words mean something, and in a tower
    that adds up its words one loud word decides.
    """
    near = set(neighbours(pair, one.word, kin).tolist())
    like = [t for t in tried if wordy(one.trigger.mark) or not wordy(t.trigger.mark)]
    others = sorted((t.paired for t in best_of_each(like) if t.word not in near), reverse=True)
    return max(0.0, others[1]) if len(others) > 1 else 0.0
