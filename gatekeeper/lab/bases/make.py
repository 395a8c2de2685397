"""From what a plan says of a base to its files."""

import shutil
from pathlib import Path
from typing import Any, Literal

from gatekeeper.clip.model import ClipModel
from gatekeeper.lab.plan import Base, NamedBase, PhotoBase, ScratchBase
from gatekeeper.lab.sets import LabSet
from gatekeeper.runtime import Runtime


def fill(
    folder: Path, spec: Base, made_of: LabSet, runtime: Runtime, *, backbones: Path | None = None
) -> None:
    """Make the base that `spec` describes in the empty `folder`.

    Args:
        folder: Empty.
        spec: What the plan says.
        made_of: The set that a model is trained from scratch on.
        runtime: Device and seed.
        backbones: Where the npm package of ResNet-50 was unpacked.

    Raises:
        GatekeeperError: It cannot be made here.
    """
    if isinstance(spec, PhotoBase):
        from gatekeeper.lab.bases.photo import write_photo_clip

        write_photo_clip(
            folder,
            runtime.seed,
            backbone=spec.backbone,
            width=spec.width,
            text=spec.text,
            folder=backbones,
        )
    elif isinstance(spec, ScratchBase):
        _train(folder, spec, made_of, runtime)
    else:
        _bring(folder, spec)


def family_of(model: ClipModel) -> Literal["vit", "resnet", "convnet"]:
    """Return the kind of image tower, by the module that it is."""
    names = {type(module).__name__.lower() for module in model.module.modules()}
    if any("visiontransformer" in name or "vitmodel" in name for name in names) or any(
        "vision" in name and "transformer" in name for name in names
    ):
        return "vit"
    return "resnet" if any("resnet" in name or "senet" in name for name in names) else "convnet"


def _train(folder: Path, spec: ScratchBase, made_of: LabSet, runtime: Runtime) -> None:
    from dataclasses import replace

    from gatekeeper.lab.bases.scratch import SCHOOLING, write_scratch_clip

    given = {"steps": spec.steps, "learning_rate": spec.learning_rate}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    schooling = replace(SCHOOLING[spec.architecture], **chosen)
    write_scratch_clip(
        folder, made_of, spec.architecture, runtime, size=spec.size, schooling=schooling
    )


def _bring(folder: Path, spec: NamedBase) -> None:
    """Copy the model that a path or an MLflow URI names; a file lies alone in the folder."""
    from gatekeeper.gate.artifacts import fetch

    taken = folder / ".taken"
    root = fetch(spec.model, taken)
    if root.is_file():
        shutil.copyfile(root, folder / root.name)
        return
    for path in root.iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)
    shutil.rmtree(taken, ignore_errors=True)
