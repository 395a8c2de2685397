r"""Which bytes is this model? One digest over name, size and content of every file.

Definition (version 1), see `docs/intake.md`:

    digest = "sha256:" + SHA-256( "gatekeeper.tree/1\n" ‖ record(f₁) ‖ … ‖ record(fₙ) )
    record = len(name) as 8 bytes big-endian ‖ name ‖ size as 8 bytes big-endian ‖ SHA-256(content)

Names are POSIX paths relative to the root in UTF-8, sorted by their bytes. Every regular file
counts, hidden ones too; empty folders and file modes do not. A single file is a tree of one, under
its own name. A symlink counts as the file that it leads to, as long as that is inside the tree.
"""

import hashlib
import os
import stat
from pathlib import Path

from gatekeeper.errors import IntakeError
from gatekeeper.types import ModelFile

DOMAIN = b"gatekeeper.tree/1\n"
MAX_FILES = 100_000  # a model has dozens; more is a mistake or an attack on the reader
_CHUNK = 1 << 22


def tree_digest(root: Path) -> tuple[str, tuple[ModelFile, ...]]:
    """Return ("sha256:…", files sorted by name) of the folder or file at `root`.

    Raises:
        IntakeError: No such path, an empty folder, a special file (device, socket, pipe), a name
            that is not UTF-8, a symlink that leads out of the tree or nowhere, or too many files.
    """
    files = tuple(
        ModelFile(path=name, size_bytes=size, sha256=digest)
        for name, size, digest in (
            (name, *_hash_file(path)) for name, path in sorted(_walk(root).items(), key=_by_bytes)
        )
    )
    return digest_of(files), files


def digest_of(files: tuple[ModelFile, ...]) -> str:
    """Return the digest of a tree whose files were already hashed, in any order."""
    total = hashlib.sha256(DOMAIN)
    for file in sorted(files, key=lambda f: f.path.encode()):
        name = file.path.encode()
        total.update(len(name).to_bytes(8, "big") + name)
        total.update(file.size_bytes.to_bytes(8, "big") + bytes.fromhex(file.sha256))
    return f"sha256:{total.hexdigest()}"


def _by_bytes(item: tuple[str, Path]) -> bytes:
    return item[0].encode()


def _walk(root: Path) -> dict[str, Path]:
    if not root.exists():
        raise IntakeError(
            f"no such model: {root}", hint="name a folder, a checkpoint file or an MLflow model URI"
        )
    if root.is_file():
        return {_checked(root.name, root): root}
    found: dict[str, Path] = {}
    real_root = root.resolve()
    for folder, subfolders, names in os.walk(root, onerror=_unreadable):
        here = Path(folder)
        # a link to a folder would be skipped by the walk, and its files with it
        for name in (*names, *(s for s in subfolders if (here / s).is_symlink())):
            path = here / name
            relative = _checked(path.relative_to(root).as_posix(), path)
            _require_regular(path, real_root)
            found[relative] = path
            if len(found) > MAX_FILES:
                raise IntakeError(
                    f"{root} holds more than {MAX_FILES} files",
                    hint="name the folder of the model itself, not one above it",
                )
    if not found:
        raise IntakeError(f"{root} is empty: there is no model in it", hint="check the path")
    return found


def _unreadable(error: OSError) -> None:
    raise IntakeError(
        f"cannot list {error.filename}: {error.strerror}", hint="check its permissions"
    ) from error


def _checked(name: str, path: Path) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise IntakeError(
            f"the name of {path!r} is not UTF-8", hint="rename the file: its digest needs a name"
        ) from error
    return name


def _require_regular(path: Path, real_root: Path) -> None:
    try:
        target = path.resolve(strict=True) if path.is_symlink() else path
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise IntakeError(
            f"{path} leads nowhere: {error}", hint="remove the link or restore the file"
        ) from error
    if path.is_symlink() and not target.is_relative_to(real_root):
        raise IntakeError(
            f"{path} is a link that leads out of the model, to {target}",
            hint="copy the file into the model's folder",
        )
    if not stat.S_ISREG(mode):
        raise IntakeError(
            f"{path} is not a regular file (or a link to a folder)",
            hint="a model holds plain files and folders only",
        )


def _hash_file(path: Path) -> tuple[int, str]:
    total, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise IntakeError(
            f"cannot read {path}: {error.strerror}", hint="check its permissions and the disk"
        ) from error
    return size, total.hexdigest()
