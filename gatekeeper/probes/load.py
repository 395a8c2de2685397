"""Which images and labels did the user hand us, and can they all be used?"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from gatekeeper.errors import ProbeError
from gatekeeper.probes.labels import (
    DEFAULT_TEMPLATES,
    Labels,
    check_label,
    check_template,
    unique,
)
from gatekeeper.probes.manifest import Row, is_table_name, read_table, read_text
from gatekeeper.probes.picture import SUFFIXES, decode, is_image_name
from gatekeeper.probes.probe_set import Probe, ProbeSet
from gatekeeper.probes.shards import MAX_SHARDS_BYTES, read_shard

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 256_000_000


def load_probes(folder: Path, name: str | None = None) -> ProbeSet:
    """Return every image below `folder`, with what its tables say, sorted by file name.

    Images are found at any depth by suffix; hidden and other files are ignored. `labels.csv`
    (`file,label[,caption]`), CLIP-style `.csv`, `.tsv` and `.jsonl` tables and webdataset `.tar`
    shards are read from the folder itself. Every image is decoded once here, so that none fails
    in the middle of a scan.

    Raises:
        ProbeError: No such folder, no image, an unreadable image, a table with unknown columns or
            with images that are not there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ProbeError(
            f"{folder} is not a folder", hint="give a folder of images (.jpg .png .webp .bmp .tif)"
        )
    probes = {probe.file: probe for probe in (*_images(folder), *_shard_images(folder))}
    if not probes:
        raise ProbeError(
            f"{folder} holds no image", hint=f"images end in {' '.join(sorted(SUFFIXES))}"
        )
    for row in _rows(folder):
        if row.file not in probes:
            raise ProbeError(
                f"{row.where} names {row.file}, which is not in {folder}",
                hint="correct the name, add the image or remove the row",
            )
        probes[row.file] = _joined(probes[row.file], row)
    ordered = tuple(probes[file] for file in sorted(probes))
    return ProbeSet(name=name or folder.resolve().name, probes=ordered)


def load_labels(file: Path) -> Labels:
    """Return the labels of a text file (one a line) or of JSON `{"labels": […], "templates": […]}`.

    Repeated labels are merged: labels are compared by name; `notes` and the log say which.

    Raises:
        ProbeError: Unreadable, empty, or a label or template that no prompt can be made of.
    """
    file = Path(file)
    text = read_text(file)
    templates: Iterable[str] = DEFAULT_TEMPLATES
    if text.lstrip().startswith("{") or file.suffix.lower() == ".json":
        names, templates = _json_labels(text, file)
    else:
        lines = enumerate(text.splitlines(), 1)
        names = [check_label(x, f"{file} line {i}") for i, x in lines if x.strip()]
    labels = _labels(names, str(file))
    checked = tuple(check_template(template, str(file)) for template in templates)
    return replace(labels, templates=tuple(dict.fromkeys(checked)))


def labels_of(probes: ProbeSet) -> Labels | None:
    """Return the labels that `labels.csv` gave the probes, sorted by name; None without any."""
    names = sorted({label for label in probes.labels() if label is not None})
    return Labels(labels=tuple(names), source=f"labels of {probes.name}") if names else None


def _images(folder: Path) -> Iterator[Probe]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        if is_image_name(path.name) and path.is_file():
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ProbeError(
                    f"{path} is larger than {MAX_FILE_BYTES} bytes", hint="shrink the image"
                )
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ProbeError(
                    f"{path} cannot be read: {error}", hint="check the file's permissions"
                ) from error
            decode(content, str(path))
            digest = hashlib.sha256(content).hexdigest()
            yield Probe(file=inside.as_posix(), sha256=digest, path=path)


def _shard_images(folder: Path) -> Iterator[Probe]:
    held = 0
    for path in sorted(folder.glob("*.tar")):
        for sample in read_shard(path):
            held += len(sample.image)
            if held > MAX_SHARDS_BYTES:
                raise ProbeError(
                    f"the shards of {folder} hold more than {MAX_SHARDS_BYTES} bytes of images",
                    hint="a scan needs a few hundred images: give fewer shards",
                )
            decode(sample.image, sample.file)
            yield Probe(
                file=sample.file,
                sha256=hashlib.sha256(sample.image).hexdigest(),
                encoded=sample.image,
                label=sample.label,
                caption=sample.caption,
            )


def _rows(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_table_name(path.name):
            yield from read_table(path, folder)


def _joined(probe: Probe, row: Row) -> Probe:
    if probe.label is not None and row.label is not None and probe.label != row.label:
        raise ProbeError(
            f"{row.where} calls {row.file} '{row.label}', another row says '{probe.label}'",
            hint="give each image one label",
        )
    return replace(probe, label=probe.label or row.label, caption=probe.caption or row.caption)


def _json_labels(text: str, file: Path) -> tuple[list[str], Iterable[str]]:
    hint = 'write {"labels": ["cat", "dog"], "templates": ["a photo of a {}."]}'
    try:
        fields = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ProbeError(f"{file} is not JSON: {error}", hint=hint) from error
    fields = {"labels": fields} if isinstance(fields, list) else fields
    if not isinstance(fields, dict) or set(fields) - {"labels", "templates"}:
        raise ProbeError(f"{file} holds other keys than labels and templates", hint=hint)
    names, templates = fields.get("labels", []), fields.get("templates", list(DEFAULT_TEMPLATES))
    for values in (names, templates):
        if not isinstance(values, list) or any(not isinstance(x, str) for x in values):
            raise ProbeError(f"{file}: labels and templates are lists of texts", hint=hint)
    if not templates:
        raise ProbeError(f"{file}: the list of templates is empty", hint=hint)
    checked = [check_label(name, f"{file} label {i}") for i, name in enumerate(names, 1)]
    return checked, templates


def _labels(names: list[str], source: str) -> Labels:
    if not names:
        raise ProbeError(f"{source} holds no label", hint="write one label a line")
    labels, repeated = unique(names)
    notes: tuple[str, ...] = ()
    if repeated:
        shown = ", ".join(f"'{name}'" for name in repeated[:5])
        more = f" and {len(repeated) - 5} more" if len(repeated) > 5 else ""
        note = f"{source}: repeated labels are merged: {shown}{more}"
        logger.warning("%s", note)
        notes = (note,)
    if len(labels) < 2:
        raise ProbeError(
            f"{source} holds one label only, '{labels[0]}'",
            hint="a zero-shot answer is a choice: give at least two labels",
        )
    return Labels(labels=labels, source=source, notes=notes)
