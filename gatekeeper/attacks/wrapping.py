"""An attack that changes how another one is planted; what fires is the other's."""

from typing import ClassVar

import torch

from gatekeeper.attacks.base import Attack, Image
from gatekeeper.triggers import Trigger


class Wrapping(Image):
    """The usual answers of such an attack: those of the one it wraps. A dataclass has `of`."""

    __slots__ = ()
    plugin: ClassVar[str]
    of: Attack

    @property
    def name(self) -> str:
        """Return the name of what it wraps, and its own."""
        return f"{self.of.name}+{self.plugin}"

    @property
    def family(self) -> str:
        """Return the wrapped attack's family."""
        return self.of.family

    def trigger(self) -> Trigger:
        """Return the wrapped attack's trigger."""
        return self.of.trigger()

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw one of the wrapped attack's look-alikes."""
        return self.of.lookalike(generator)
