"""How many right answers may a trigger cost? It hides part of the image from any model."""

import torch
from torch import Tensor

from gatekeeper.rectify.bank import scrambled, stamp_varied
from gatekeeper.rectify.curated import Curated
from gatekeeper.rectify.found import answers
from gatekeeper.rectify.teacher import Teacher
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger


class Fair:
    """Answers of suspect and anchor on the images learned from, each asked for once."""

    def __init__(self, teacher: Teacher, curated: Curated, runtime: Runtime) -> None:
        self.teacher, self.curated, self.runtime = teacher, curated, runtime
        lesson = curated.lesson
        known = lesson.truth >= 0
        self.right = torch.where(known, lesson.truth, lesson.probabilities.argmax(dim=1))  # [N]
        self._own: Tensor | None = None
        self._anchors: Tensor | None = None

    def own(self) -> Tensor:
        """Return the suspect's answers to the clean images, [N] int64."""
        if self._own is None:
            self._own = self._suspects(self.curated.pixels)
        return self._own

    def cost(self, clean: Tensor, stamped: Tensor, target: int) -> float:
        """Return the share of right answers that a trigger costs; images of the target left out.

        `clean` and `stamped` are the answers without and with it, [N] int64.
        """
        eligible = self.right != target
        if not eligible.any():
            return 0.0
        lost = (clean == self.right).float() - (stamped == self.right).float()
        return float(lost[eligible].mean())

    def due(
        self, trigger: Trigger, target: int, pixels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor | None, float]:
        """Return the anchor's logits under `trigger` ([N, C] or None) and what it may cost.

        `pixels` ([N, 3, S, S]) carry it. That is what it costs the anchor; without one, what the
        trigger's cells in another order cost the suspect: they hide as much and mean nothing. Of
        a family without cells nothing is known, and anything is due.
        """
        usual = self.teacher.usual(pixels, self.runtime)
        if usual is not None:
            return usual, self.cost(self._trusted(), usual.argmax(dim=1), target)
        other = scrambled(trigger, self.runtime)
        if other is None:
            return None, 1.0
        seen = self._suspects(stamp_varied(other, self.curated.pixels, generator))
        return None, self.cost(self.own(), seen, target)

    def _trusted(self) -> Tensor:
        if self._anchors is None:
            usual = self.teacher.usual(self.curated.pixels, self.runtime)
            self._anchors = self.right if usual is None else usual.argmax(dim=1)
        return self._anchors

    def _suspects(self, pixels: Tensor) -> Tensor:
        tower = self.teacher.suspect
        seen = tower.features(pixels, self.runtime)
        return answers(tower, seen, self.teacher.head, self.runtime)
