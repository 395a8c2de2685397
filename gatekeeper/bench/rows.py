"""One result, one JSON file, written whole: a run that stops goes on where it was."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gatekeeper.errors import EvidenceError
from gatekeeper.lab.manifest import write_whole
from gatekeeper.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one method made of one model; `result` is the bench's own."""

    bench: str  # detect | rectify | oracle
    method: str
    model: str
    key: str  # digest of all that the result follows from
    kind: str
    attack: str
    family: str
    architecture: str
    base: str
    digest: str
    result: dict[str, Json] = field(default_factory=dict)
    error: str = ""  # why there is no result
    seconds: float = 0.0
    image_passes: float = 0.0
    text_passes: float = 0.0
    peak_rss_mb: float = 0.0
    own_process: bool = True  # False: the peak is of everything that ran in the process


def key_of(parts: Json) -> str:
    """Return "sha256:…" over what a result follows from."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Store:
    """The folder `rows/` of a run."""

    folder: Path

    def get(self, method: str, model: str, key: str) -> Row | None:
        """Return the row where it was made of the same things and is no failure."""
        file = self._file(method, model)
        try:
            row = _row(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return row if row.key == key and not row.error else None

    def put(self, row: Row) -> None:
        """Write a row in one step.

        Raises:
            EvidenceError: It cannot be written.
        """
        file = self._file(row.method, row.model)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(asdict(row), indent=1, allow_nan=False) + "\n")
        except (OSError, ValueError) as error:
            raise EvidenceError(
                f"{file} cannot be written: {error}", hint="name another folder with --output"
            ) from error

    def files(self) -> Iterator[Path]:
        """Yield every row's file."""
        yield from sorted(self.folder.rglob("*.json"))

    def _file(self, method: str, model: str) -> Path:
        return self.folder / _plain(method) / f"{_plain(model)}.json"


def _row(fields: Any) -> Row:
    return Row(**fields)


def _plain(name: str) -> str:
    """Return a file name of `name`, the same for the same name, no other's."""
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "x"
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
