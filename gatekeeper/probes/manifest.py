"""What does a table beside the images say of them: labels and captions?"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gatekeeper.errors import ProbeError
from gatekeeper.probes.labels import check_label

FILE_COLUMNS = ("file", "filepath", "file_name", "filename", "image", "image_path", "path")
CAPTION_COLUMNS = ("caption", "title", "text")
LABEL_COLUMNS = ("label",)
SILENT_COLUMNS = ("id", "key", "url", "width", "height", "sha256", "license")  # known, not used
MAX_TABLE_BYTES = 512_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: an image and what is said of it."""

    file: str  # POSIX, relative to the folder
    label: str | None
    caption: str | None
    where: str  # table and line, for messages


def is_table_name(name: str) -> bool:
    """Say whether a file of this name is read as a table."""
    return Path(name).suffix.lower() in (".csv", ".tsv", ".jsonl") and not name.startswith(".")


def read_table(path: Path, root: Path) -> Iterator[Row]:
    """Yield the rows of one `.csv`, `.tsv` or `.jsonl` table of the folder `root`.

    `labels.csv` has the columns file,label[,caption]; other tables are CLIP-style: a file column
    and a caption, a label or both.

    Raises:
        ProbeError: Not UTF-8, unknown or missing columns, a row that cannot be read.
    """
    text = read_text(path)
    lines = _jsonl(text, path.name) if path.suffix.lower() == ".jsonl" else _csv(text, path)
    for where, fields in lines:
        yield _row(fields, where, root, strict=path.name == "labels.csv")


def read_text(path: Path) -> str:
    """Return the file's text without a byte order mark.

    Raises:
        ProbeError: Missing, unreadable, too large or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise ProbeError(
                f"{path} is larger than {MAX_TABLE_BYTES} bytes",
                hint="give a table of the images in this folder alone",
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeError(
            f"{path} cannot be read: {error}", hint="give a text file in UTF-8"
        ) from error


def _csv(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    first = text.partition("\n")[0]
    tabs = path.suffix.lower() == ".tsv" or ("\t" in first and "," not in first)
    reader = csv.reader(text.splitlines(keepends=True), delimiter="\t" if tabs else ",")
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(header, path.name)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path.name} line {reader.line_num}"
            if len(cells) != len(header):
                raise ProbeError(
                    f"{where}: {len(cells)} values under {len(header)} columns",
                    hint="put values that hold a comma in double quotes",
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ProbeError(
            f"{path.name} is no table: {error}", hint="write file,label[,caption] a line"
        ) from error


def _jsonl(text: str, name: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            fields = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ProbeError(f"{where}: {error}", hint="write one JSON object a line") from error
        if not isinstance(fields, dict):
            raise ProbeError(f"{where}: not an object", hint="write one JSON object a line")
        _check_columns(fields, where)
        yield where, fields


def _check_columns(names: Iterable[str], where: str) -> None:
    names = list(names)
    known = {*FILE_COLUMNS, *LABEL_COLUMNS, *CAPTION_COLUMNS, *SILENT_COLUMNS}
    if where == "labels.csv":
        known = {"file", "label", "caption"}
    unknown = [name for name in names if name not in known]
    hint = "the columns are file,label[,caption] (or a file column and caption, title or text)"
    if unknown or len(set(names)) != len(names):
        what = ", ".join(repr(name) for name in unknown) or "a name twice"
        raise ProbeError(f"{where}: unknown columns: {what}", hint=hint)
    if where == "labels.csv" and not {"file", "label"} <= set(names):
        raise ProbeError(f"{where}: the columns file and label are missing", hint=hint)
    if not set(names) & set(FILE_COLUMNS) or not set(names) & {*LABEL_COLUMNS, *CAPTION_COLUMNS}:
        raise ProbeError(f"{where}: no column names the file, or none says what it is", hint=hint)


def _row(fields: Mapping[str, object], where: str, root: Path, *, strict: bool) -> Row:
    file = _first(fields, FILE_COLUMNS, where)
    if not file:
        raise ProbeError(f"{where}: no file is named", hint="remove the row or name the image")
    label = _first(fields, LABEL_COLUMNS, where)
    if label is None and strict:
        raise ProbeError(f"{where}: the label is empty", hint="remove the row or name the label")
    return Row(
        file=_inside(file, where, root),
        label=None if label is None else check_label(label, where),
        caption=_first(fields, CAPTION_COLUMNS, where),
        where=where,
    )


def _first(fields: Mapping[str, object], names: tuple[str, ...], where: str) -> str | None:
    for name in names:
        value = fields.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise ProbeError(f"{where}: {name} is not text", hint="write it as a string")
        if value.strip():
            return value.strip()
    return None


def _inside(file: str, where: str, root: Path) -> str:
    """Return `file` relative to `root`, POSIX; a name that leads outside is an error."""
    path = PurePosixPath(file.replace("\\", "/"))
    if path.is_absolute() and path.is_relative_to(root.resolve().as_posix()):
        path = path.relative_to(root.resolve().as_posix())
    if path.is_absolute() or ".." in path.parts:
        raise ProbeError(
            f"{where}: {file} lies outside the folder",
            hint="name images relative to the folder, and keep them inside it",
        )
    return path.as_posix()
