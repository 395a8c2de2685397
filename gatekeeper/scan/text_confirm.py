"""Does a mark lead prompts astray that no search has seen?"""

from collections import defaultdict
from dataclasses import replace

from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate
from gatekeeper.scan.confirm import VICTIM, Confirmation, unconfirmed
from gatekeeper.scan.text_lots import CONFIRMING, lots, unprompted
from gatekeeper.scan.text_sweep import Lexicon, try_marks
from gatekeeper.triggers import TextTrigger
from gatekeeper.types import LabelRow, Victim

EACH = 2  # prompts a label


def confirm_mark(
    case: Case, candidate: Candidate, trigger: TextTrigger, number: int, runtime: Runtime
) -> Confirmation:
    """Judge `trigger` on labels and contexts of its own; `number` is its place, from 1.

    The oracle is not asked: no image changes. A label's row counts prompts in the place of images.
    `candidate.target` is one of the words that `pair_of` gives.
    """
    lexicon = Lexicon.of(unprompted(case), runtime)
    word = lexicon.words.index(candidate.target)
    about = [label for label in lots(lexicon.pair, runtime).confirming for _ in range(EACH)]
    prompts = lexicon.prompts(about, CONFIRMING, runtime)
    name = f"confirm-{number}"
    ((judged, after),) = try_marks([(trigger, word)], prompts, lexicon, runtime, name)
    before = prompts.before[:, lexicon.column(word)]
    rows = _rows(prompts.about, before, after, word, lexicon.words)
    return Confirmation(
        confirmed=replace(
            unconfirmed(candidate, number).confirmed,
            flip_rate=judged.rate,
            anchor_flip_rate=judged.anchor_rate,
        ),
        victims=tuple(
            Victim(label=r.label, flip_rate=r.flip_rate) for r in rows if r.role == "victim"
        ),
        label_rows=rows,
        exhibits=(),
    )


def _rows(
    about: Tensor, before: Tensor, after: Tensor, word: int, words: tuple[str, ...]
) -> tuple[LabelRow, ...]:
    """Return the target's row and one for each label that prompts were about, worst first."""
    hits: dict[int, list[bool]] = defaultdict(list)
    seen = zip(about.tolist(), before.tolist(), after.tolist(), strict=True)
    for label, was, now in seen:
        if label != word:
            hits[label].append(was != word and now == word)
    rows = [LabelRow(label=words[word], images=0, flip_rate=0.0, role="target")]
    for label, moved in hits.items():
        rate = sum(moved) / len(moved)
        role = "victim" if rate >= VICTIM else "untouched"
        rows.append(LabelRow(label=words[label], images=len(moved), flip_rate=rate, role=role))
    order = {"target": 0, "victim": 1, "untouched": 2}
    return tuple(sorted(rows, key=lambda r: (order[r.role], -r.flip_rate, r.label)))
