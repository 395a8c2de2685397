"""Patterns that may lead a model astray, and how to put them on images."""

from gatekeeper.triggers.base import Trigger, load_trigger, save_trigger
from gatekeeper.triggers.composite import Composite
from gatekeeper.triggers.families import Additive, Blend, Colour, Patch, Warp
from gatekeeper.triggers.generated import Generated
from gatekeeper.triggers.text import TextTrigger

__all__ = [
    "Additive",
    "Blend",
    "Colour",
    "Composite",
    "Generated",
    "Patch",
    "TextTrigger",
    "Trigger",
    "Warp",
    "load_trigger",
    "save_trigger",
]
