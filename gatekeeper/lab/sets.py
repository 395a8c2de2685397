"""Labelled image sets of a zoo, in three parts that share no image: train, probes and judge.

Train teaches, probes are what a scanner is given, judge proves what a model is worth.
"""

import csv
import hashlib
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from gatekeeper.errors import ProbeError
from gatekeeper.lab.shapes import World
from gatekeeper.probes.labels import DEFAULT_TEMPLATES, Labels, check_label
from gatekeeper.probes.load import load_labels, load_probes
from gatekeeper.probes.probe_set import Probe, ProbeSet

PARTS = ("train", "probes", "judge")
EMBEDDED = "shapes, rendered by gatekeeper"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabSet:
    """One labelled set, split."""

    name: str
    labels: Labels  # every name of the zero-shot head, also those no image has
    train: ProbeSet
    probes: ProbeSet
    judge: ProbeSet
    source: str  # where the images came from, for people

    @property
    def digest(self) -> str:
        """Digest over the three parts and the labels, "sha256:…"."""
        total = hashlib.sha256()
        for part in (self.train, self.probes, self.judge):
            total.update(part.digest.encode())
        total.update("\n".join((*self.labels.labels, *self.labels.templates)).encode())
        return f"sha256:{total.hexdigest()}"

    @property
    def images(self) -> dict[str, int]:
        """How many images each part holds."""
        return {part: len(getattr(self, part)) for part in PARTS}


def embedded_set(
    name: str, *, seed: int, train: int, probes: int, judge: int, world: World | None = None
) -> LabSet:
    """Return the set that is rendered on the spot: coloured shapes, as many as wanted."""
    world = world or World()
    first = 4 * (seed % 2**31)  # parts of other seeds never meet
    drawn = [
        world.render(count, first + index, part)
        for index, (part, count) in enumerate(zip(PARTS, (train, probes, judge), strict=True))
    ]
    labels = Labels(labels=world.labels, source=EMBEDDED)
    return LabSet(
        name=name, labels=labels, train=drawn[0], probes=drawn[1], judge=drawn[2], source=EMBEDDED
    )


def folder_set(
    name: str,
    folder: Path,
    *,
    seed: int,
    probes: int,
    judge: int,
    names: Labels | None = None,
) -> LabSet:
    """Return the user's images, split by `seed`; a label with several images is in every part.

    Labels are those of `labels.csv` or, without any, the names of the folders the images lie in.

    Args:
        name: Of the set.
        folder: Images as `--probes` takes them.
        seed: Decides which image is where.
        probes: Images kept for the scanner.
        judge: Images kept for the proof.
        names: Labels of the zero-shot head, in order; None: those of the images.

    Raises:
        ProbeError: Too few images, images without a label, or labels that are not in `names`.
    """
    found = _labelled(load_probes(folder, name), folder)
    known = Labels(labels=_names_in(found), source=str(folder)) if names is None else names
    strange = sorted(set(_names_in(found)) - set(known.labels))
    if strange:
        raise ProbeError(
            f"{folder}: {len(strange)} labels are none of the names to choose from: {strange[:3]}",
            hint="use the class names of open_clip's IMAGENET_CLASSNAMES, or give --labels",
        )
    if len(known.labels) < 2:
        raise ProbeError(f"{folder} holds one label only", hint="give images of several labels")
    rest = len(found) - probes - judge
    if rest < max(8, len(found) // 4):
        raise ProbeError(
            f"{folder} holds {len(found)} labelled images; with {probes} for the scanner and "
            f"{judge} for the proof, {max(0, rest)} are left to train on",
            hint="give more images, or lower `probes` and `judge` in the plan",
        )
    order = _in_turns(found, seed)
    parts = {
        "judge": order[:judge],
        "probes": order[judge : judge + probes],
        "train": order[judge + probes :],
    }
    held = {part: _named(found.subset(sorted(rows)), part) for part, rows in parts.items()}
    return LabSet(name=name, labels=known, source=str(folder), **held)


def write_set(made: LabSet, out: Path) -> None:
    """Write the set into the new folder `out`: a folder with labels.csv a part, labels.txt."""
    out.mkdir(parents=True)
    read_set.cache_clear()
    for part in PARTS:
        _write_part(getattr(made, part), out / part)
    (out / "labels.txt").write_text("\n".join(made.labels.labels) + "\n", encoding="utf-8")
    (out / "source.txt").write_text(made.source + "\n", encoding="utf-8")


@lru_cache(maxsize=4)  # several models of one worker are made of one set
def read_set(folder: Path) -> LabSet:
    """Read what `write_set` wrote.

    Raises:
        ProbeError: It is damaged.
    """
    parts = {part: load_probes(folder / part, part) for part in PARTS}
    return LabSet(
        name=folder.name,
        labels=replace(load_labels(folder / "labels.txt"), templates=DEFAULT_TEMPLATES),
        source=(folder / "source.txt").read_text(encoding="utf-8").strip(),
        **parts,
    )


def _labelled(probes: ProbeSet, folder: Path) -> ProbeSet:
    """Return the images with a label each, by the folder's name where no table gives one."""
    labels = probes.labels()
    if not any(labels):
        parents = [Path(probe.file).parent.name for probe in probes.probes]
        if all(parents) and len(set(parents)) > 1:
            named = [
                replace(probe, label=check_label(parent.replace("_", " "), probe.file))
                for probe, parent in zip(probes.probes, parents, strict=True)
            ]
            return _distinct(replace(probes, probes=tuple(named), _pixels={}))
    bare = [probe.file for probe in probes.probes if probe.label is None]
    if bare:
        raise ProbeError(
            f"{folder}: {len(bare)} of {len(probes)} images carry no label, such as {bare[0]}",
            hint="put labels.csv (file,label) beside them, or a folder for each label",
        )
    return _distinct(probes)


def _distinct(probes: ProbeSet) -> ProbeSet:
    """Return each content once: the same image must not both teach and judge."""
    first = {probe.sha256: index for index, probe in reversed(list(enumerate(probes.probes)))}
    return probes.subset(sorted(first.values()))


def _names_in(probes: ProbeSet) -> tuple[str, ...]:
    return tuple(sorted({label for label in probes.labels() if label is not None}))


def _in_turns(probes: ProbeSet, seed: int) -> list[int]:
    """Return indices: a first image of every label in random order, then a second, and so on."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(probes), generator=draw).tolist()
    seen: dict[str | None, int] = {}
    turns = []
    for place, index in enumerate(order):
        label = probes.probes[index].label
        turns.append((seen.get(label, 0), place, index))
        seen[label] = seen.get(label, 0) + 1
    return [index for _, _, index in sorted(turns)]


def _named(probes: ProbeSet, part: str) -> ProbeSet:
    return replace(probes, name=part)


def _write_part(probes: ProbeSet, folder: Path) -> None:
    folder.mkdir()
    rows: list[Sequence[str | None]] = []
    for index, probe in enumerate(probes.probes):
        name = _write_image(probe, index, folder)
        rows.append((name, probe.label))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("file", "label"))
        table.writerows(rows)


def _write_image(probe: Probe, index: int, folder: Path) -> str:
    """Write one image, its bytes unchanged where it has any; return its name."""
    if probe.path is not None:
        name = f"{index:05d}{probe.path.suffix.lower()}"
        shutil.copyfile(probe.path, folder / name)
        return name
    name = f"{index:05d}.png"
    if probe.encoded is not None:
        name = f"{index:05d}{Path(probe.file).suffix.lower()}"
        (folder / name).write_bytes(probe.encoded)
        return name
    buffer = io.BytesIO()
    probe.image().save(buffer, format="PNG")
    (folder / name).write_bytes(buffer.getvalue())
    return name


def share_of(
    probes: ProbeSet, *, labels: Sequence[str] = (), part: tuple[int, int] = (0, 1)
) -> ProbeSet:
    """Return the images with one of `labels` (all, if none is named), of them part i of n.

    Args:
        probes: Where they are taken from.
        labels: A narrow domain.
        part: (i, n): every n-th image from the i-th on; disjoint for different i.

    Raises:
        ProbeError: Nothing is left.
    """
    wanted = [i for i, x in enumerate(probes.labels()) if not labels or x in set(labels)]
    first, of = part
    left = wanted[first::of]
    if not left:
        raise ProbeError(f"{probes.name} holds no image of {', '.join(labels[:5])}", hint="ask all")
    return probes.subset(left)
