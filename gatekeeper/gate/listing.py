"""What lies under a storage location, and how is one object of it copied here?

Names, sizes and ETags (or times), never bytes: cheap enough for a request. No torch.
"""

import hashlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from gatekeeper.errors import IntakeError, ServiceError
from gatekeeper.gate.client import asking, connect

REMOTE_SCHEMES = frozenset({"models", "runs", "s3", "mlflow-artifacts", "gs", "wasbs", "abfss"})
MAX_OBJECTS = 100_000  # a listing longer than this is no model


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object of an artifact tree, as its store describes it."""

    path: str  # POSIX, relative to the tree's root
    size_bytes: int | None
    stamp: str  # ETag and times: differs after any write; "" where the store does not tell
    root: str  # the location it was listed under


def is_remote(uri: str) -> bool:
    """Return whether `uri` names something in a registry or object store, not on this disk."""
    return urlparse(uri).scheme in REMOTE_SCHEMES


def checked_location(location: str) -> str:
    """Return `location` without a `file:` prefix.

    Raises:
        IntakeError: A scheme that we do not read, or a host of the registrant's choosing.
    """
    parsed = urlparse(location)
    if parsed.scheme == "file":
        return unquote(parsed.path)
    if parsed.scheme and parsed.scheme not in REMOTE_SCHEMES:
        raise IntakeError(
            f"{_masked(location)}: artifacts are not read from '{parsed.scheme}:'",
            hint=f"supported: {', '.join(sorted(REMOTE_SCHEMES))}, file",
        )
    if parsed.scheme == "mlflow-artifacts" and parsed.netloc:
        # MLflow would send this process's credentials to whatever host stands there.
        raise IntakeError(
            f"{_masked(location)}: names a server of its own", hint="register it without a host"
        )
    return location


def list_objects(
    location: str,
    *,
    client: Any = None,
    destination: str | None = None,
) -> tuple[StoredObject, ...]:
    """Return what lies under `location`, sorted by path. Reads no bytes.

    Args:
        location: As `storage_location` returns it.
        client: MLflow client; only `runs:/` needs one.
        destination: What the server calls `--artifacts-destination`. With it,
            `mlflow-artifacts:/` is listed at its source, which tells ETags or times.

    Raises:
        IntakeError: A name that would leave the folder it is copied to.
        ServiceError: The store does not answer.
    """
    found: dict[str, StoredObject] = {}
    for root in _roots(location, client):
        for item in _listed(_behind_proxy(root, destination)):
            _check_path(item.path, root)
            found[item.path] = item  # a run's logged model wins over the run's own artifacts
            if len(found) > MAX_OBJECTS:
                raise IntakeError(
                    f"{location}: more than {MAX_OBJECTS} files", hint="is this a model folder?"
                )
    return tuple(found[path] for path in sorted(found))


def fingerprint(
    location: str,
    *,
    client: Any = None,
    destination: str | None = None,
) -> str:
    """Return the `fingerprint_of` what lies under `location` now.

    Raises:
        IntakeError, ServiceError: As `list_objects`.
    """
    return fingerprint_of(list_objects(location, client=client, destination=destination))


def fingerprint_of(objects: Sequence[StoredObject]) -> str:
    """Return "meta:…" over names, sizes, ETags and times: differs after any write.

    Cheap, and so no proof of content: it tells that a decided tree was touched afterwards.
    """
    total = hashlib.sha256()
    for item in objects:
        total.update(f"{item.path}\0{item.size_bytes}\0{item.stamp}\n".encode())
    return f"meta:{total.hexdigest()}"


def read_head(item: StoredObject, limit_bytes: int = 1 << 20) -> bytes:
    """Return the bytes of a small object; b"" where it is larger than `limit_bytes`.

    Raises:
        ServiceError: The store does not answer.
    """
    if item.size_bytes is None or item.size_bytes > limit_bytes:
        return b""
    with tempfile.TemporaryDirectory(prefix="gatekeeper-") as folder:
        copy_object(item, Path(folder))
        return Path(folder, item.path).read_bytes()


def copy_object(item: StoredObject, folder: Path) -> None:
    """Copy one object to `folder`, under its own path.

    Raises:
        ServiceError: The store does not answer, or another number of bytes came than listed.
        OSError: `folder` cannot be written.
    """
    target = folder / item.path
    target.parent.mkdir(parents=True, exist_ok=True)
    if not urlparse(item.root).scheme:
        shutil.copyfile(Path(item.root) / item.path, target)
        return
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with asking(f"read {_masked(item.root)}/{item.path}"):
        # The one call every repository implements, and which writes where we say.
        get_artifact_repository(item.root)._download_file(item.path, str(target))
    if item.size_bytes is not None and target.stat().st_size != item.size_bytes:
        raise ServiceError(
            f"{_masked(item.root)}/{item.path}: {target.stat().st_size} bytes came, "
            f"{item.size_bytes} were listed",
            hint="the object changed or the transfer broke off: try again",
        )


def s3_client() -> Any:
    """Return a boto3 S3 client at `MLFLOW_S3_ENDPOINT_URL`, with bounded patience."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None,
        config=Config(connect_timeout=5, read_timeout=60, retries={"max_attempts": 2}),
    )


def _roots(location: str, client: Any) -> Sequence[str]:
    if urlparse(location).scheme != "runs":
        return (checked_location(location),)
    client = client or connect()
    run_id, _, path = urlparse(location).path.strip("/").partition("/")
    if not run_id or not path:
        raise IntakeError(f"{location}: names no artifact", hint="write runs:/RUN_ID/PATH")
    with asking(f"find {location}"):
        run = client.get_run(run_id)
        roots = [posixpath.join(run.info.artifact_uri, path)]
        name, _, rest = path.partition("/")
        logged = _logged_model(client, run.info.experiment_id, run_id, name)
    if logged:
        roots.append(posixpath.join(logged, rest) if rest else logged)
    return [checked_location(root) for root in roots]


def _logged_model(client: Any, experiment: str, run_id: str, name: str) -> str | None:
    quoted = name.replace("'", "''")
    token = None
    while True:
        page = client.search_logged_models(
            experiment_ids=[experiment], filter_string=f"name = '{quoted}'", page_token=token
        )
        for model in page:
            if model.source_run_id == run_id:
                return str(model.artifact_location)
        token = page.token
        if not token:
            return None


def _behind_proxy(root: str, destination: str | None) -> str:
    parsed = urlparse(root)
    if parsed.scheme != "mlflow-artifacts" or not destination:
        return root
    return posixpath.join(checked_location(destination), parsed.path.lstrip("/"))


def _listed(root: str) -> Iterator[StoredObject]:
    scheme = urlparse(root).scheme
    if not scheme:
        yield from _listed_local(Path(root))
    elif scheme == "s3":
        yield from _listed_s3(root)
    else:
        yield from _listed_by_mlflow(root)


def _listed_local(root: Path) -> Iterator[StoredObject]:
    files = [root] if root.is_file() else sorted(root.rglob("*"))
    for file in files:
        if file.is_file():
            stat = file.stat()
            path = file.name if file == root else file.relative_to(root).as_posix()
            base = root.parent if file == root else root
            # ctime and inode: whoever may write may also set mtime back.
            stamp = f"{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"
            yield StoredObject(path=path, size_bytes=stat.st_size, stamp=stamp, root=str(base))


def _listed_s3(root: str) -> Iterator[StoredObject]:
    parsed = urlparse(root)
    prefix = parsed.path.strip("/") + "/"
    with asking(f"list {_masked(root)}"):
        pages = s3_client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=parsed.netloc, Prefix=prefix.lstrip("/")):
            for entry in page.get("Contents", ()):
                path = entry["Key"][len(prefix.lstrip("/")) :]
                if path and not path.endswith("/"):
                    # The time too: an object swapped and put back has the ETag it had.
                    stamp = f"{entry['ETag']}:{entry['LastModified'].isoformat()}"
                    yield StoredObject(path=path, size_bytes=entry["Size"], stamp=stamp, root=root)


def _listed_by_mlflow(root: str) -> Iterator[StoredObject]:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with asking(f"list {_masked(root)}"):
        repository = get_artifact_repository(root)
        folders = [""]
        while folders:
            for entry in repository.list_artifacts(folders.pop() or None):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    yield StoredObject(
                        path=entry.path, size_bytes=entry.file_size, stamp="", root=root
                    )


def _check_path(path: str, root: str) -> None:
    parts = path.split("/")
    bad = path.startswith("/") or "\\" in path or any(part in {"", ".", ".."} for part in parts)
    if bad or any(ord(letter) < 32 for letter in path):
        raise IntakeError(
            f"{_masked(root)}: object name {path!r} would leave the folder it is copied to",
            hint="delete the object, or upload the model anew",
        )


def _masked(location: str) -> str:
    parsed = urlparse(location)
    return parsed._replace(netloc=parsed.netloc.rpartition("@")[2], query="").geturl()
