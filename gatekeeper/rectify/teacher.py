"""What a repaired model should say of an image, triggered or not."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.late import Blocks, LateTower
from gatekeeper.clip.model import BATCH, ClipModel, ZeroShot
from gatekeeper.runtime import Runtime

CONFIDENT = 0.5  # probability from which an answer counts as a caption
ALIGNED = 0.9  # mean cosine of two heads from which two models share one embedding space


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """Images' right answers; N rows."""

    embedding: Tensor  # [N, D] unit
    probabilities: Tensor  # [N, C]
    truth: Tensor  # [N] int64; -1 where nobody knows
    clean: Tensor  # [N] float32; 0: the first two are not to be trusted (victims), else 1

    def rows(self, index: Tensor) -> "Lesson":
        """Return the rows at `index` ([M] int64)."""
        return Lesson(
            embedding=self.embedding[index],
            probabilities=self.probabilities[index],
            truth=self.truth[index],
            clean=self.clean[index],
        )


def join(lessons: "list[Lesson]") -> Lesson:
    """Return several lessons, one after another."""
    return Lesson(
        embedding=torch.cat([lesson.embedding for lesson in lessons]),
        probabilities=torch.cat([lesson.probabilities for lesson in lessons]),
        truth=torch.cat([lesson.truth for lesson in lessons]),
        clean=torch.cat([lesson.clean for lesson in lessons]),
    )


class Teacher:
    """The suspect on clean images, half and half with the anchor where there is one.

    A suspect is right on clean images, an anchor on all of them (repair section 7, 1 and 2). The
    anchor's embeddings count only where both text heads agree that the space is the same one.
    Both are frozen copies from block `cut` on, so that they answer cached features; an anchor
    whose early blocks are not the suspect's is asked with pixels.
    """

    def __init__(
        self, case: Case, head: ZeroShot, anchor_head: ZeroShot | None, blocks: Blocks, cut: int
    ) -> None:
        self.head, self.anchor_head = head, anchor_head
        self.suspect = LateTower(case.model, blocks, cut)
        self.anchor = case.anchor
        self._late_anchor: LateTower | None = None
        if case.anchor is not None and self.suspect.cached:
            self._late_anchor = _late_anchor(self.suspect, case.anchor, blocks)
        self.aligned = _aligned(head, anchor_head)

    def teach(
        self,
        features: Tensor,
        pixels: Tensor | None,
        known: tuple[str | None, ...],
        runtime: Runtime,
    ) -> Lesson:
        """Return the right answers to clean images, given as early features ([N, ...]).

        `pixels` ([N, 3, S, S]) are what an anchor with other early blocks needs; None leaves such
        an anchor out. `known` are the images' labels.
        """
        own = _embed(self.suspect, features, runtime)
        embedding = own
        probabilities = second = self.head.probabilities(own)
        theirs = self._anchor(features, pixels, runtime)
        if theirs is not None and self.anchor_head is not None:
            second = self.anchor_head.probabilities(theirs)
            if self.aligned:
                embedding = F.normalize(own + theirs, dim=-1)
        return Lesson(
            embedding=embedding,
            probabilities=(probabilities + second) / 2,
            truth=truth_of(known, self.head, probabilities, second),
            clean=torch.ones(len(own)),
        )

    def usual(self, pixels: Tensor, runtime: Runtime) -> Tensor | None:
        """Return the anchor's logits [N, C] for any images; None without an anchor."""
        features = pixels
        if self._late_anchor is not None:
            features = self.suspect.features(pixels, runtime)
        theirs = self._anchor(features, pixels, runtime)
        if theirs is None or self.anchor_head is None:
            return None
        return self.anchor_head.logits(theirs)

    def correct(self, features: Tensor, labels: tuple[str, ...], runtime: Runtime) -> Lesson:
        """Return a lesson on triggered images whose true `labels` an oracle named: caption only."""
        own = _embed(self.suspect, features, runtime)
        places = [self.head.labels.index(label) for label in labels]
        return Lesson(
            embedding=own,
            probabilities=self.head.probabilities(own),
            truth=torch.tensor(places, dtype=torch.int64),
            clean=torch.zeros(len(own)),
        )

    def _anchor(self, features: Tensor, pixels: Tensor | None, runtime: Runtime) -> Tensor | None:
        if self._late_anchor is not None:
            return _embed(self._late_anchor, features, runtime)
        if self.anchor is None or pixels is None:
            return None
        return self.anchor.embed(self.anchor.resized(pixels), runtime)


def truth_of(known: tuple[str | None, ...], head: ZeroShot, own: Tensor, second: Tensor) -> Tensor:
    """Return the label given, else a confident answer of the suspect, else the anchor's, [N].

    `own` and `second` are the probabilities that the two give each label, [N, C]; -1: nobody knows.
    """
    places = {label: index for index, label in enumerate(head.labels)}
    truth = []
    for row, label in enumerate(known):
        place = places.get(label) if label is not None else None
        sure = [a[row] for a in (own, second) if float(a[row].max()) >= CONFIDENT]
        if place is not None:
            truth.append(place)
        else:
            truth.append(int(sure[0].argmax()) if sure else -1)
    return torch.tensor(truth, dtype=torch.int64)


def _embed(tower: LateTower, features: Tensor, runtime: Runtime) -> Tensor:
    if len(features) == 0:
        return torch.zeros(0, 1)
    parts = [tower.output(part, runtime).cpu() for part in torch.split(features, BATCH)]
    return F.normalize(torch.cat(parts), dim=-1)


def _late_anchor(tower: LateTower, anchor: ClipModel, blocks: Blocks) -> LateTower | None:
    """Return the anchor's late blocks if what lies before them is the suspect's, bit for bit.

    A fine-tune often leaves the early blocks alone; its features then serve the anchor too, which
    saves a whole pass an image.
    """
    trained = {n for n, p in tower.module.named_parameters() if p.requires_grad}
    own, theirs = tower.source.state_dict(), anchor.state_dict()
    if own.keys() != theirs.keys() or tower.source.preprocess != anchor.preprocess:
        return None
    if not all(torch.equal(own[n], theirs[n]) for n in own if n not in trained):
        return None
    return LateTower(anchor, blocks, tower.cut)


def _aligned(head: ZeroShot, other: ZeroShot | None) -> bool:
    """Return True where anchor and suspect embed into one space."""
    if other is None or other.weights.shape != head.weights.shape:
        return False
    return float((other.weights * head.weights).sum(dim=1).mean()) > ALIGNED
