"""Is the evidence where it must be, byte for byte?

`GATEKEEPER_EVIDENCE` names a folder or `s3://bucket/prefix`. Each scan gets a folder of its own
under it; nothing there is ever overwritten. What was written is read back and compared: a store
that takes bytes and loses them is a store that failed.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from gatekeeper.errors import EvidenceError, GatekeeperError
from gatekeeper.gate.client import asking, first_line
from gatekeeper.gate.listing import s3_client

_HINT = "free space, or point GATEKEEPER_EVIDENCE at a store that works; nothing was decided"


def evidence_root() -> str | None:
    """Return `GATEKEEPER_EVIDENCE`, None where it is unset or empty."""
    return os.environ.get("GATEKEEPER_EVIDENCE") or None


def store_evidence(folder: Path, key: str, root: str | None = None) -> str | None:
    """Copy `folder` to `root`/`key`, read it back and return where it lies.

    Args:
        folder: The bundle.
        key: One path component, unique to the scan.
        root: A folder or `s3://bucket/prefix`; by default `GATEKEEPER_EVIDENCE`. None: unset.

    Raises:
        EvidenceError: It could not be stored, or other bytes came back.
    """
    root = root or evidence_root()
    if root is None:
        return None
    digests = file_digests(folder)
    try:
        if urlparse(root).scheme == "s3":
            return _to_s3(folder, digests, root, key)
        return _to_folder(folder, digests, Path(urlparse(root).path or root), key)
    except EvidenceError:
        raise
    except (OSError, GatekeeperError) as error:
        raise EvidenceError(
            f"evidence could not be stored in {root}: {first_line(error)}", hint=_HINT
        ) from error


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below `folder`, by POSIX path."""
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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


def _to_folder(folder: Path, digests: dict[str, str], root: Path, key: str) -> str:
    target = root / key
    if target.exists():
        require_equal(digests, file_digests(target), str(target))
        return str(target)
    root.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=root))
    try:
        shutil.copytree(folder, partial, dirs_exist_ok=True)
        require_equal(digests, file_digests(partial), str(target))
        partial.chmod(0o755)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(target)


def _to_s3(folder: Path, digests: dict[str, str], root: str, key: str) -> str:
    parsed = urlparse(root)
    prefix = "/".join(part for part in (parsed.path.strip("/"), key) if part)
    where = f"s3://{parsed.netloc}/{prefix}"
    with asking(f"write {where}"):
        client = s3_client()
        for path in digests:
            client.upload_file(str(folder / path), parsed.netloc, f"{prefix}/{path}")
        kept = {path: _s3_digest(client, parsed.netloc, f"{prefix}/{path}") for path in digests}
    require_equal(digests, kept, where)
    return where


def _s3_digest(client: Any, bucket: str, key: str) -> str:
    total = hashlib.sha256()
    for chunk in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20):
        total.update(chunk)
    return total.hexdigest()
