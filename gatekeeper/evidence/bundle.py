"""Where does evidence lie? One folder, complete or not there, every file under a digest."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gatekeeper.errors import EvidenceError
from gatekeeper.evidence.html import ReportPage, report_page, validation_page
from gatekeeper.evidence.records import dumps, to_plain
from gatekeeper.evidence.report_json import to_json
from gatekeeper.types import (
    Exhibit,
    Json,
    LabelRow,
    ModelFile,
    Proof,
    Quality,
    Reply,
    ScanReport,
    SearchStep,
)

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = "gatekeeper.manifest/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Evidence on disk; `digest` is that of the manifest, which names every other file's."""

    root: Path
    files: tuple[ModelFile, ...]  # sorted by path, without the manifest
    digest: str  # "sha256:…"


def write_bundle(
    out: Path,
    report: ScanReport,
    *,
    exhibits: Sequence[Exhibit] = (),
    steps: Sequence[SearchStep] = (),
    label_rows: Sequence[LabelRow] = (),
    validation: Mapping[str, Json] | None = None,
    trigger_files: Mapping[str, bytes] | None = None,
    before: Quality | None = None,
    after: Quality | None = None,
    rescan: ScanReport | None = None,
    proof: Proof | None = None,
    replies: Sequence[Reply] = (),
    refused: str = "",
) -> Bundle:
    """Write report, pages, pictures and manifest to the folder `out`; return what was written.

    The bundle is put together beside `out` and moved there when it is complete: a full disk or a
    Ctrl-C leaves an earlier bundle as it was. Other files in `out` are left alone.

    Args:
        out: Folder; made if missing.
        report: The scan.
        exhibits: Images before and after the trigger.
        steps: Steps of the trigger search.
        label_rows: The per-label table.
        validation: Great Expectations' result (`Evaluation.validation`).
        trigger_files: Bytes by path relative to `out`, as in `TriggerRecord.files`:
            `triggers/NAME`.
        before: The model before rectification.
        after: The cleaned model.
        rescan: The cleaned model's own scan, shown and linked as `rescan/report.html`; its
            bundle is written by the caller, since it has pictures of its own.
        proof: What the cleaned model was put through.
        replies: Images that no repair has seen, with both models' answers.
        refused: What speaks against the cleaned model besides its scan; empty: nothing.

    Raises:
        EvidenceError: It cannot be written (exit code 4): nothing may be announced.
    """
    page = ReportPage(
        report=report,
        exhibits=tuple(exhibits),
        steps=tuple(steps),
        label_rows=tuple(label_rows),
        trigger_files=dict(trigger_files or {}),
        before=before,
        after=after,
        rescan=rescan,
        proof=proof,
        replies=tuple(replies),
        refused=refused,
    )
    return _publish(out, _contents(page, validation or {}))


def read_bundle(root: Path) -> Bundle:
    """Return the bundle that lies in `root`, as its manifest tells.

    Raises:
        EvidenceError: There is none.
    """
    try:
        manifest = (root / MANIFEST).read_bytes()
        files = tuple(ModelFile(**file) for file in json.loads(manifest)["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvidenceError(
            f"{root} holds no complete evidence: {error}", hint="run the same command again"
        ) from error
    digest = hashlib.sha256(manifest).hexdigest()
    return Bundle(root=root, files=files, digest=f"sha256:{digest}")


def _publish(out: Path, contents: Mapping[str, bytes]) -> Bundle:
    stage: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        files = tuple(_write(stage, name, contents[name]) for name in sorted(contents))
        manifest = dumps({"schema": MANIFEST_SCHEMA, "files": to_plain(files)}) + "\n"
        _write(stage, MANIFEST, manifest.encode())
        _move(stage, out, [*contents, MANIFEST])
    except OSError as error:
        raise EvidenceError(
            f"evidence could not be written to {out}: {error.strerror or error}",
            hint="free space or choose another folder with --output, then scan again; "
            "no decision was recorded",
        ) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    return Bundle(root=out, files=files, digest=f"sha256:{digest}")


def _contents(page: ReportPage, validation: Mapping[str, Json]) -> dict[str, bytes]:
    """Return every file of the bundle but the manifest, by relative path."""
    told = to_plain(validation, "validation")
    contents = {
        "report.json": to_json(
            page.report, before=page.before, after=page.after, proof=page.proof
        ).encode(),
        "report.html": report_page(page).encode(),
        "validation.json": (dumps(told) + "\n").encode(),
        "validation.html": validation_page(page.report, validation).encode(),
    }
    for name, blob in page.trigger_files.items():
        contents[_relative(name)] = blob
    for number, exhibit in enumerate(page.exhibits, 1):
        contents[f"exhibits/{number:03d}-clean.png"] = exhibit.clean_png
        contents[f"exhibits/{number:03d}-triggered.png"] = exhibit.triggered_png
    for number, reply in enumerate(page.replies, 1):
        contents[f"proof/{number:03d}-clean.png"] = reply.clean_png
        contents[f"proof/{number:03d}-triggered.png"] = reply.triggered_png
    return contents


def _relative(name: str) -> str:
    path = PurePosixPath(name)
    strange = "\\" in name or ":" in name or "\0" in name or str(path) != name
    if strange or path.is_absolute() or ".." in path.parts or path.parts[:1] != ("triggers",):
        raise EvidenceError(
            f"trigger file {name!r} does not lie in the bundle, expected triggers/NAME",
            hint="name trigger files as in TriggerRecord.files, relative to the report's folder",
        )
    return name


def _write(root: Path, name: str, blob: bytes) -> ModelFile:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())  # a full disk shows here, not after the decision was announced
    return ModelFile(path=name, size_bytes=len(blob), sha256=hashlib.sha256(blob).hexdigest())


def _move(stage: Path, out: Path, names: Sequence[str]) -> None:
    """Put the staged files into `out`; the manifest goes first and comes last."""
    if not out.exists():
        stage.chmod(0o755)  # mkdtemp makes it private; evidence is read by others
        stage.rename(out)
        return
    for name in _listed(out):
        if name not in names:
            with contextlib.suppress(FileNotFoundError):
                (out / name).unlink()
    (out / MANIFEST).unlink(missing_ok=True)  # without one, the folder is no bundle
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).replace(out / name)


def _listed(out: Path) -> list[str]:
    """Return the pictures that an earlier bundle in `out` claims as its own."""
    try:
        document = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        names = [str(file["path"]) for file in document["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    ours = ("triggers", "exhibits", "proof")
    safe = [PurePosixPath(name) for name in names]
    return [
        str(path)
        for path in safe
        if path.parts and path.parts[0] in ours and ".." not in path.parts
    ]
