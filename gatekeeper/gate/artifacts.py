"""Where do the bytes behind a MODEL lie, and how do they get here unharmed?

Nothing is loaded and nothing executed: objects are listed, their names checked, and each is
copied into a folder of ours. A model version is followed to its `storage_location`, which is what
consumers download; never to its `model_id`, which whoever registers a version may make up.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from gatekeeper.errors import IntakeError, ServiceError
from gatekeeper.gate.client import asking, connect
from gatekeeper.gate.listing import (
    REMOTE_SCHEMES,
    StoredObject,
    checked_location,
    copy_object,
    fingerprint_of,
    is_remote,
    list_objects,
)


def storage_location(uri: str, *, client: Any = None) -> str:
    """Return where the bytes of `uri` lie: an artifact URI or a local path.

    Args:
        uri: `models:/name/version`, `models:/name@alias`, `models:/m-…`, `runs:/ID/path`,
            `s3://…`, `mlflow-artifacts:/…` or a local path.
        client: MLflow client; by default the environment's.

    Raises:
        IntakeError: There is no such model, version, alias, run or path.
        ServiceError: The registry does not answer.
    """
    scheme = urlparse(uri).scheme
    if scheme == "models":
        return _models_location(uri, client or connect())
    if scheme == "file":
        uri = unquote(urlparse(uri).path)
    elif scheme in REMOTE_SCHEMES:
        return checked_location(uri)
    if not Path(uri).exists():
        raise IntakeError(f"{uri}: no such file or folder", hint="give a model folder, file or URI")
    return str(Path(uri).resolve())


def fetch(uri: str, into: Path, *, client: Any = None) -> Path:
    """Bring the bytes of `uri` to this machine and return the folder or file they are in.

    A local path is returned as it is. Everything else appears at `into` complete or not at all.

    Raises:
        IntakeError: Unknown name, nothing there, or names that would leave `into`.
        ServiceError: Registry or store do not answer (exit 4).
    """
    location = storage_location(uri, client=client)
    if not is_remote(location) and urlparse(uri).scheme in {"", "file"}:
        return Path(location)
    return download(location, into, client=client)


def download(location: str, into: Path, *, client: Any = None) -> Path:
    """Copy every object under `location` to `into`, atomically; `into` must not exist yet.

    Raises:
        IntakeError: Nothing there, or names that would leave `into`.
        ServiceError: The store does not answer, broke off, or changed meanwhile.
    """
    return take(location, into, client=client).root


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A tree of ours, and what its store said of it before and after it was copied."""

    root: Path
    fingerprint: str | None  # None: the store tells no times, so a swap would not be seen


def take(location: str, into: Path, *, client: Any = None, destination: str | None = None) -> Taken:
    """Copy every object under `location` to `into` and say which state of the store that was.

    Args:
        location: As `storage_location` returns it.
        into: Appears complete or not at all.
        client: MLflow client; only `runs:/` needs one.
        destination: The server's `--artifacts-destination`, where it can be reached from here.

    Raises:
        IntakeError: Nothing there, or names that would leave `into`.
        ServiceError: The store does not answer, broke off, or changed meanwhile.
    """
    before = list_objects(location, client=client, destination=destination)
    if not before:
        raise IntakeError(
            f"{location}: no files", hint="was the model's artifact folder uploaded or deleted?"
        )
    _copy_all(before, location, into)
    if list_objects(location, client=client, destination=destination) != before:
        shutil.rmtree(into, ignore_errors=True)
        raise ServiceError(
            f"{location}: its files changed while they were read", hint="try again when it is still"
        )
    stamped = all(item.stamp for item in before)
    return Taken(root=into, fingerprint=fingerprint_of(before) if stamped else None)


def _copy_all(objects: Sequence[StoredObject], location: str, into: Path) -> None:
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))
    try:
        for item in objects:
            copy_object(item, partial)
        partial.replace(into)
    except OSError as error:
        raise ServiceError(
            f"cannot place {location} at {into}: {error}", hint="check free space and permissions"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _models_location(uri: str, client: Any) -> str:
    name, version, alias, model_id = parse_models_uri(uri)
    with asking(f"find {uri}"):
        if model_id is not None:
            return checked_location(str(client.get_logged_model(model_id).artifact_location))
        if alias is not None:
            version = str(client.get_model_version_by_alias(name, alias).version)
        # What consumers download from: column storage_location.
        return checked_location(str(client.get_model_version_download_uri(name, version)))


def parse_models_uri(uri: str) -> tuple[str, str, str | None, str | None]:
    """Split a models URI into name, version, alias, LoggedModel ID ("" or None where absent).

    Raises:
        IntakeError: Not `models:/NAME/VERSION`, `models:/NAME@ALIAS` or `models:/m-ID`.
    """
    parsed = urlparse(uri)
    parts = unquote(parsed.path).strip("/").split("/")
    if parsed.scheme == "models" and not parsed.netloc and all(parts):
        if len(parts) == 2 and parts[1].isascii() and parts[1].isdigit():
            return parts[0], str(int(parts[1])), None, None
        if len(parts) == 1 and "@" in parts[0]:
            name, alias = parts[0].rsplit("@", 1)
            if name and alias:
                return name, "", alias, None
        elif len(parts) == 1 and parts[0].startswith("m-"):
            return "", "", None, parts[0]
    raise IntakeError(
        f"{uri}: not a model URI",
        hint="write models:/NAME/VERSION, models:/NAME@ALIAS or models:/m-ID",
    )
