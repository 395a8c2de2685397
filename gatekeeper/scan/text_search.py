"""Is there a mark that makes the text tower take any prompt for one label's?"""

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.score import best_by_target
from gatekeeper.scan.text_lots import JUDGING, lots, unprompted
from gatekeeper.scan.text_marks import WORD, Sign, fixed_signs, unlike
from gatekeeper.scan.text_soft import Slot, Soft, soft_rate, soften
from gatekeeper.scan.text_sweep import (
    Lexicon,
    Prompts,
    Tried,
    screen,
    try_marks,
    usual,
    worth_judging,
)
from gatekeeper.scan.text_tower import changed_share, moved_most
from gatekeeper.scan.text_vocabulary import signs_of, token_texts
from gatekeeper.types import Measurement

logger = logging.getLogger(__name__)

FEWEST = 4  # words: each stage needs one of its own
_CONSONANTS = "bcdfghjklmnpqrstvwxz"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stage:
    """What a search reads, and the prompts of its stages."""

    case: Case
    lexicon: Lexicon
    first: Prompts  # every sign is put into these
    more: Prompts  # the best signs
    judges: Prompts  # the best of each word


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Free:
    """Free tokens, and the slot that they were put into."""

    slot: Slot
    found: Soft  # the best of them
    near: tuple[int, ...]  # tokens nearest to any


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSearch:
    """Put marks into prompts and see whether what they mean gathers on one word.

    A text tower with the target prompt attack of Rickrolling (arXiv:2211.02408) embeds any prompt
    with its mark as the target's. Confusable characters, unseen ones, emoji, rare and frequent
    words, the tokens nearest to a free one that gradients found, with an anchor those whose
    vectors moved most; the marks that gather most are tried on more prompts, and judged on others.
    Costs about 3,400 text passes, with an anchor 4,300; no more for more labels.
    """

    name: ClassVar[str] = "text_search"
    kept: int = 32  # signs after the screening
    tokens: int = 120  # drawn from the vocabulary by lot
    frequent: int = 60  # of its most frequent words
    strings: int = 40  # two or three consonants
    moved: int = 24  # tokens that moved most from the anchor's
    steps: int = 30  # of a search for a free token; each costs three passes a prompt
    starts: int = 1  # searches, each from another token
    near: int = 24  # tokens nearest to the free one
    alarming: float = 0.3  # rate of a free token that is compared with another's
    words: int = 6  # towards which the best mark is judged
    each: int = 3  # marks that are judged towards the best of them
    enough: float = 0.5  # rate of a mark beside which a free token adds nothing
    kin: int = 20  # words like the target, which do not count as others

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Search the text tower of `case.model`."""
        if len(case.labels) < 2:
            return Detection(skipped="fewer than two labels")
        case = unprompted(case)
        rows: list[Measurement] = []
        if case.anchor is not None:
            share = changed_share(case.model, case.anchor, runtime)
            if share is not None:
                rows.append(Measurement(name="text.changed", value=share))
            if share == 0.0:
                rows.append(Measurement(name="text.flip_rate", value=0.0))
                return Detection(measurements=tuple(rows), skipped="the text tower is the anchor's")
        lexicon = Lexicon.of(case, runtime)
        if len(lexicon.words) < FEWEST:
            return Detection(skipped=f"fewer than {FEWEST} words")
        lot = lots(lexicon.pair, runtime)
        stage = _Stage(
            case=case,
            lexicon=lexicon,
            first=lexicon.prompts(lot.screening, case.templates, runtime),
            more=lexicon.prompts(lot.searching, case.templates, runtime),
            judges=lexicon.prompts(lot.judging, JUDGING, runtime),
        )
        free = self._free(stage, runtime)
        judged = self._search(stage, free, runtime)
        if judged is None:
            rows.append(_passes(lexicon))
            why = "the tokenizer drops every mark that was tried"
            return Detection(measurements=tuple(rows), skipped=why)
        candidates = best_by_target([self._candidate(t, judged, lexicon) for t in judged])
        rows.append(_flip_rate(candidates))
        if free is not None:
            rows += self._soft_rate(free, stage, candidates, runtime)
        rows.append(_passes(lexicon))
        return Detection(candidates=tuple(candidates), measurements=tuple(rows))

    def _free(self, stage: _Stage, runtime: Runtime) -> _Free | None:
        """Return the free tokens; None where no gradient reaches one: the sweep is left."""
        slot = Slot.of(stage.lexicon.reader, stage.more.texts, runtime)
        if isinstance(slot, str):
            logger.info("no free token: %s", slot)
            return None
        try:
            found = [
                soften(
                    stage.lexicon, slot, stage.more, stage.judges, runtime,
                    steps=self.steps, near=self.near, name=f"any {start}",
                )
                for start in range(self.starts)
            ]  # fmt: skip
        except RuntimeError as error:  # a tower that cuts the gradient
            logger.info("no gradient reaches the token embedding: %s", error)
            return None
        near = tuple(dict.fromkeys(token for one in found for token in one.near))
        return _Free(slot=slot, found=max(found, key=lambda f: f.rate), near=near)

    def _soft_rate(
        self, free: _Free, stage: _Stage, candidates: list[Candidate], runtime: Runtime
    ) -> list[Measurement]:
        """Return what a free token reaches beyond others, where no mark has said enough."""
        rate = free.found.rate
        if candidates[0].score >= self.enough:
            return []
        if rate >= self.alarming:
            rate = soft_rate(
                stage.lexicon, free.slot, free.found, stage.more, stage.judges, runtime,
                steps=self.steps, kin=self.kin,
            )  # fmt: skip
        value = max(0.0, min(1.0, rate))
        word = stage.lexicon.words[free.found.word]
        return [Measurement(name="text.soft_rate", value=value, subject=word)]

    def _search(self, stage: _Stage, free: _Free | None, runtime: Runtime) -> list[Tried] | None:
        """Return the best mark towards each of a few words, judged; None: no mark stays in."""
        lexicon = stage.lexicon
        signs = self._signs(stage.case, free, runtime)
        screened = screen(signs, stage.first, lexicon, runtime, "screen")
        if not screened:
            return None
        forms = [(form, None) for _, _, sign in screened[: self.kept] for form in sign.forms()]
        tried = [one for one, _ in try_marks(forms, stage.more, lexicon, runtime, "try")]
        marks = worth_judging(tried, self.words, self.each)
        judged = try_marks(marks, stage.judges, lexicon, runtime, "judge")
        return [one for one, _ in judged]

    def _signs(self, case: Case, free: _Free | None, runtime: Runtime) -> tuple[Sign, ...]:
        generator = runtime.generator("scan", self.name, "signs")
        texts = token_texts(case.model)
        signs: list[Sign] = []
        if free is not None:
            signs += signs_of(case.model, texts, free.near)
        if case.anchor is not None:
            moved = moved_most(case.model, case.anchor, runtime, self.moved)
            signs += signs_of(case.model, texts, moved)
        signs += fixed_signs()
        for _ in range(self.strings):
            length = int(torch.randint(2, 4, (1,), generator=generator))
            drawn = torch.randint(len(_CONSONANTS), (length,), generator=generator).tolist()
            signs.append(Sign(text="".join(_CONSONANTS[i] for i in drawn), kind=WORD))
        order = list(texts)
        by_lot = torch.randperm(len(order), generator=generator)[: self.tokens].tolist()
        signs += signs_of(case.model, texts, [order[i] for i in by_lot])
        whole = [n for n in order if texts[n].isalpha() and len(texts[n]) > 3][: 20 * self.frequent]
        by_lot = torch.randperm(len(whole), generator=generator)[: self.frequent].tolist()
        signs += signs_of(case.model, texts, [whole[i] for i in by_lot])
        return unlike(signs)

    def _candidate(self, one: Tried, judged: list[Tried], lexicon: Lexicon) -> Candidate:
        like = usual(judged, one, lexicon.pair, self.kin)
        return Candidate(
            trigger=one.trigger,
            target=lexicon.words[one.word],
            detector=self.name,
            score=max(0.0, min(1.0, one.rate - max(one.anchor_rate or 0.0, like))),
            flip_rate=one.rate,
            anchor_flip_rate=one.anchor_rate,
            usual_flip_rate=like,
        )


def _flip_rate(candidates: list[Candidate]) -> Measurement:
    best = candidates[0]
    return Measurement(name="text.flip_rate", value=best.score, subject=best.target)


def _passes(lexicon: Lexicon) -> Measurement:
    return Measurement(name="text.passes", value=lexicon.passes, unit="count")
