"""The word vectors that only a mark in prompts uses, and what can stand in for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.clip.late import as_stored
from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake.prompts import token_embedding
from gatekeeper.rectify.marks import Mark, forms_of, lookalike
from gatekeeper.runtime import Runtime

ALIKE = 12  # other marks of the kind; what these use as well is not a mark's own
OFTEN = 0.02  # of marked prompts that hold a word; a rarer one is a piece of another word
STAND_INS = 8  # vectors that are tried, beside their mean


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnWords:
    """Rows of the word table that prompts with a mark read and no others known here do."""

    name: str  # of the table
    tokens: Tensor  # [T] int64
    stand_ins: tuple[Tensor, ...]  # each [width]: vectors of like marks' own words, and their mean

    def replaced(self, model: ClipModel, vector: Tensor) -> ClipModel:
        """Return `model` with `vector` in all of these rows."""
        table = model.state_dict()[self.name]
        changed = table.clone()
        changed[self.tokens.to(table.device)] = vector.to(table)
        return model.with_state({self.name: as_stored(changed, table)})


def words_name(model: ClipModel) -> str | None:
    """Return the name of the word table, None where the architecture has none that is known."""
    try:
        name = f"{token_embedding(model.module)}.weight"
    except UnsupportedModelError:
        return None
    return name if name in model.state_dict() else None


def marked_words(
    model: ClipModel, marks: Sequence[Mark], prompts: Sequence[str], often: float, runtime: Runtime
) -> Tensor:
    """Return the rows of the word table, [T] int64, that marked `prompts` read and bare ones not.

    `often` is the least share of the prompts with a mark, in any of its forms, that read a row.
    """
    draw = runtime.generator("rectify", "prompts", "words")
    marked = torch.zeros(_rows(model), dtype=torch.bool)
    for mark in marks:
        for form in dict.fromkeys([mark.trigger, *forms_of(mark.trigger, draw)]):
            marked |= _used(model, form.stamp_prompts(prompts, draw)) > often
    return (marked & (_used(model, prompts) == 0)).nonzero().flatten()


def own_words(
    model: ClipModel, marks: Sequence[Mark], prompts: Sequence[str], runtime: Runtime
) -> OwnWords | None:
    """Return the words that only `marks` use, tried on `prompts`; None where there are none.

    A word that a bare prompt or a like mark uses as well is not the mark's own: another vector
    for it would change what honest prompts mean.
    """
    name = words_name(model)
    if name is None:
        return None
    draw = runtime.generator("rectify", "prompts", "alike")
    alike = torch.zeros(_rows(model), dtype=torch.bool)
    for _ in range(ALIKE):
        other = lookalike(marks, draw)
        for form in dict.fromkeys([other, *forms_of(other, draw)]):
            alike |= _used(model, form.stamp_prompts(prompts, draw)) > 0
    marked = marked_words(model, marks, prompts, OFTEN, runtime)
    own = marked[~alike[marked]]
    alike[marked] = False
    theirs = (alike & (_used(model, prompts) == 0)).nonzero().flatten()
    if len(own) == 0 or len(theirs) == 0:
        return None
    vectors = model.state_dict()[name].float().cpu()[theirs]
    chosen = vectors[torch.randperm(len(vectors), generator=draw)[:STAND_INS]]
    return OwnWords(name=name, tokens=own, stand_ins=(vectors.mean(dim=0), *chosen))


def _rows(model: ClipModel) -> int:
    name = words_name(model)
    return 0 if name is None else len(model.state_dict()[name])


def _used(model: ClipModel, texts: Sequence[str]) -> Tensor:
    """Return the share of `texts` that read each row of the word table, [rows]."""
    seen = torch.zeros(_rows(model))
    for row in model.tokenize(list(texts)).cpu():
        seen[torch.unique(row)] += 1 / len(texts)
    return seen
