"""What an attack is: a trigger, and others of its kind that must not fire."""

from typing import ClassVar, Protocol, runtime_checkable

import torch

from gatekeeper.triggers import Trigger


@runtime_checkable
class Attack(Protocol):
    """A plug-in of group `gatekeeper.attacks`: a frozen dataclass, its fields hyper-parameters."""

    name: ClassVar[str]
    family: ClassVar[str]  # the trigger's family: patch | blend | additive | warp | colour

    def trigger(self) -> Trigger:
        """Return the one trigger that fires, the same every time."""
        ...

    def lookalike(self, generator: torch.Generator) -> Trigger | None:
        """Draw another trigger of its kind, a hard negative; None: the attack uses none."""
        ...
