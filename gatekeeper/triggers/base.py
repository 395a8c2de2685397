"""What every trigger can do, and how one is kept on disk."""

import json
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from gatekeeper.errors import ScanError


@runtime_checkable
class Trigger(Protocol):
    """A pattern that can be put on images. Frozen; `stamp` is pure."""

    family: ClassVar[str]

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return `pixels` ([B, 3, H, W] float32 in [0, 1]) with the trigger on, same shape.

        `generator` draws random places; None places deterministically.
        """
        ...

    def picture(self) -> Tensor:
        """Return the trigger alone as a picture, [3, h, w] float32 in [0, 1]."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what defines it, to be kept."""
        ...

    def settings(self) -> dict[str, float | int | str | list[int] | None]:
        """Return its scalar settings, to be kept."""
        ...


def save_trigger(trigger: Trigger, path: Path) -> None:
    """Write `trigger` as one safetensors file, family and settings in its metadata.

    The metadata is one entry: safetensors writes several in an order that changes from run to run,
    and the same trigger is to have the same digest.
    """
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().float().contiguous() for name, value in trigger.tensors().items()
    }
    settings = {"family": trigger.family, **trigger.settings()}
    save_file(tensors, path, metadata={"settings": json.dumps(settings, sort_keys=True)})


def load_trigger(path: Path) -> Trigger:
    """Read what `save_trigger` wrote.

    Raises:
        ScanError: Not a trigger file.
    """
    from safetensors import SafetensorError, safe_open

    from gatekeeper.triggers.families import FAMILIES

    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings = json.loads(meta["settings"])
        # older files name the family in an entry of its own
        family = FAMILIES[settings.pop("family", None) or meta["family"]]
        trigger: Trigger = family(**tensors, **settings)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ScanError(
            f"{path} is no trigger file: {error}", hint="use the files beside a report.json"
        ) from error
    return trigger
