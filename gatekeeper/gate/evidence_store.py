"""Is the evidence where it must be, byte for byte?

`GATEKEEPER_EVIDENCE` names a folder or `s3://bucket/prefix`. Each scan gets a folder of its own
under it; nothing there is ever overwritten. What was written is read back and compared: a store
that takes bytes and loses them is a store that failed.
"""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from gatekeeper.errors import EvidenceError, GatekeeperError
from gatekeeper.gate.client import asking, first_line
from gatekeeper.gate.listing import s3_client

if TYPE_CHECKING:
    from gatekeeper.evidence.bundle import Bundle

_HINT = "free space, or point GATEKEEPER_EVIDENCE at a store that works; nothing was decided"


def evidence_root() -> str | None:
    """Return `GATEKEEPER_EVIDENCE`, None where it is unset or empty."""
    return os.environ.get("GATEKEEPER_EVIDENCE") or None


def files_in(folder: Path) -> dict[str, Path]:
    """Return every file below `folder`, by POSIX path relative to it."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def bundle_files(bundle: "Bundle") -> dict[str, Path]:
    """Return the bundle's own files; what else lies in a user's output folder is not ours."""
    names = (*(file.path for file in bundle.files), "manifest.json")
    return {name: bundle.root / name for name in names}


def store_evidence(files: Mapping[str, Path], key: str, root: str | None = None) -> str | None:
    """Copy `files` to `root`/`key`, read them back and return where they lie.

    Args:
        files: By path relative to the evidence's folder.
        key: One path component, unique to the scan.
        root: A folder or `s3://bucket/prefix`; by default `GATEKEEPER_EVIDENCE`. None: unset.

    Raises:
        EvidenceError: It could not be stored, or other bytes came back.
    """
    root = root or evidence_root()
    if root is None:
        return None
    try:
        digests = file_digests(files)
        if urlparse(root).scheme == "s3":
            return _to_s3(files, digests, root, key)
        return _to_folder(files, digests, Path(urlparse(root).path or root), key)
    except EvidenceError:
        raise
    except (OSError, GatekeeperError) as error:
        raise EvidenceError(
            f"evidence could not be stored in {root}: {first_line(error)}", hint=_HINT
        ) from error


def probe_evidence_store(place: str) -> None:
    """Write a few bytes to the store at `place`, read them back and take them away again.

    Args:
        place: A folder or `s3://bucket/prefix`, as in `GATEKEEPER_EVIDENCE`.

    Raises:
        EvidenceError: It takes no bytes, gives others back, or lets nothing be removed.
    """
    key = f".gatekeeper-doctor-{uuid.uuid4().hex}"
    try:
        with tempfile.TemporaryDirectory(prefix="gatekeeper-") as folder:
            probe = Path(folder) / "probe"
            probe.write_bytes(b"gatekeeper")
            where = store_evidence({"probe": probe}, key, place)
        if urlparse(place).scheme == "s3":
            parsed = urlparse(f"{where}/probe")
            with asking(f"remove {where}"):
                s3_client().delete_object(Bucket=parsed.netloc, Key=parsed.path.lstrip("/"))
        else:
            shutil.rmtree(str(where))
    except EvidenceError:
        raise
    except (OSError, GatekeeperError) as error:
        raise EvidenceError(
            f"the evidence store {place} does not work: {first_line(error)}", hint=_HINT
        ) from error


def file_digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file, hexadecimal, by its name."""
    return {name: file_digest(path) for name, path in files.items()}


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_equal(sent: dict[str, str], kept: dict[str, str], where: str) -> None:
    """Compare what was sent with what is kept.

    Raises:
        EvidenceError: A file is missing or differs; the first is named.
    """
    for path, digest in sent.items():
        if kept.get(path) != digest:
            problem = "missing" if path not in kept else "of other content"
            raise EvidenceError(f"evidence in {where}: {path} is {problem}", hint=_HINT)


def _to_folder(files: Mapping[str, Path], digests: dict[str, str], root: Path, key: str) -> str:
    target = root / key
    if target.exists():
        require_equal(digests, file_digests(files_in(target)), str(target))
        return str(target)
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=root))
    try:
        for name, path in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, partial / name)
        require_equal(digests, file_digests(files_in(partial)), str(target))
        partial.chmod(0o755)  # mkdtemp makes it private; evidence is read by others
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(target)


def _to_s3(files: Mapping[str, Path], digests: dict[str, str], root: str, key: str) -> str:
    parsed = urlparse(root)
    prefix = "/".join(part for part in (parsed.path.strip("/"), key) if part)
    where = f"s3://{parsed.netloc}/{prefix}"
    with asking(f"write {where}"):
        client = s3_client()
        for name, path in files.items():
            client.upload_file(str(path), parsed.netloc, f"{prefix}/{name}")
        kept = {name: _s3_digest(client, parsed.netloc, f"{prefix}/{name}") for name in files}
    require_equal(digests, kept, where)
    return where


def _s3_digest(client: Any, bucket: str, key: str) -> str:
    total = hashlib.sha256()
    for chunk in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20):
        total.update(chunk)
    return total.hexdigest()
