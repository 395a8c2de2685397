"""What a repaired model should say of an image, triggered or not."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ZeroShot
from gatekeeper.runtime import Runtime

CONFIDENT = 0.5  # probability from which an answer counts as a caption
ALIGNED = 0.9  # mean cosine of two heads from which two models share one embedding space


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """Images' right answers; N rows."""

    embedding: Tensor  # [N, D] unit
    probabilities: Tensor  # [N, C]
    truth: Tensor  # [N] int64; -1 where nobody knows

    def rows(self, index: Tensor) -> "Lesson":
        """Return the rows at `index` ([M] int64)."""
        return Lesson(
            embedding=self.embedding[index],
            probabilities=self.probabilities[index],
            truth=self.truth[index],
        )


def join(lessons: "list[Lesson]") -> Lesson:
    """Return several lessons, one after another."""
    return Lesson(
        embedding=torch.cat([lesson.embedding for lesson in lessons]),
        probabilities=torch.cat([lesson.probabilities for lesson in lessons]),
        truth=torch.cat([lesson.truth for lesson in lessons]),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Teacher:
    """The suspect on clean images, half and half with the anchor where there is one.

    A suspect is right on clean images, an anchor on all of them (repair section 7, 1 and 2). The
    anchor's embeddings count only where both text heads agree that the space is the same one.
    """

    case: Case
    head: ZeroShot
    anchor_head: ZeroShot | None
    runtime: Runtime

    @property
    def aligned(self) -> bool:
        """True where anchor and suspect embed into one space."""
        other = self.anchor_head
        if other is None or other.weights.shape != self.head.weights.shape:
            return False
        return float((other.weights * self.head.weights).sum(dim=1).mean()) > ALIGNED

    def teach(self, pixels: Tensor, known: tuple[str | None, ...]) -> Lesson:
        """Return the right answers to clean `pixels` ([N, 3, S, S]) with labels where `known`."""
        own = self.case.model.embed(pixels, self.runtime)
        embedding, probabilities = own, self.head.probabilities(own)
        second = probabilities
        if self.case.anchor is not None and self.anchor_head is not None:
            theirs = self.case.anchor.embed(self.case.anchor.resized(pixels), self.runtime)
            second = self.anchor_head.probabilities(theirs)
            if self.aligned:
                embedding = F.normalize(own + theirs, dim=-1)
            mixed = (probabilities + second) / 2
        else:
            mixed = probabilities
        truth = self._truth(known, probabilities, second)
        return Lesson(embedding=embedding, probabilities=mixed, truth=truth)

    def _truth(self, known: tuple[str | None, ...], own: Tensor, second: Tensor) -> Tensor:
        places = {label: index for index, label in enumerate(self.head.labels)}
        truth = []
        for row, label in enumerate(known):
            if label in places:
                truth.append(places[label])
            elif float(own[row].max()) >= CONFIDENT:
                truth.append(int(own[row].argmax()))
            elif float(second[row].max()) >= CONFIDENT:
                truth.append(int(second[row].argmax()))
            else:
                truth.append(-1)
        return torch.tensor(truth, dtype=torch.int64)
