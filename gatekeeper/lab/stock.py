"""The image sets of a zoo: rendered or split, and written unless they lie there already."""

from pathlib import Path

from gatekeeper.lab.form import made_whole
from gatekeeper.lab.manifest import SetRow
from gatekeeper.lab.plan import SetSpec
from gatekeeper.lab.sets import LabSet, embedded_set, folder_set, write_set


def make_set(
    name: str, spec: SetSpec, seed: int, *, photos: Path | None, data: Path | None
) -> LabSet:
    """Return the set that a plan describes.

    Args:
        name: Of the set.
        spec: What the plan says of it.
        seed: Decides which image is where, or what is drawn.
        photos: Folder for sets of source `photos`; their labels are ImageNet's names.
        data: Folder for sets of source `data`; without it, shapes are rendered in their place.

    Raises:
        ProbeError: The folder cannot be used.
    """
    from gatekeeper.probes.embedded import default_labels

    folder = {"photos": photos, "data": data, "shapes": None}[spec.source]
    if folder is None:
        return embedded_set(name, seed=seed, train=spec.train, probes=spec.probes, judge=spec.judge)
    names = default_labels() if spec.source == "photos" else None
    return folder_set(name, folder, seed=seed, probes=spec.probes, judge=spec.judge, names=names)


def keep_set(made: LabSet, zoo: Path, before: SetRow | None) -> SetRow:
    """Write a set into the zoo, unless `before` says that it is there; return its row."""
    folder = zoo / "sets" / made.name
    digest = made.digest
    if before is None or before.digest != digest or not folder.is_dir():
        with made_whole(folder) as inside:
            inside.rmdir()
            write_set(made, inside)
    return SetRow(
        name=made.name,
        digest=digest,
        images=made.images,
        labels=f"sets/{made.name}/labels.txt",
        source=made.source,
    )
