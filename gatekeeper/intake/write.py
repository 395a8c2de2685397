"""The same model with other weights: only numbers change, and only where they lie.

Every other byte stays: names, order, dtypes and metadata of a safetensors file, the program of a
pickle, the graph of an exported program, every file that holds no weights. In a zip the checksums
of the rewritten records are renewed.
"""

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gatekeeper.errors import DigestMismatchError, RectifyError
from gatekeeper.intake.child import file_of
from gatekeeper.intake.digest import tree_digest
from gatekeeper.intake.open import Opened
from gatekeeper.intake.pickle_values import Malformed
from gatekeeper.intake.prompts import places_of_prompts
from gatekeeper.intake.tensors import DTYPES, Place
from gatekeeper.intake.zip_checksums import renew_checksums

WRITABLE = ("safetensors", "torch_zip", "torch_legacy", "pt2", "torchscript")
_ZIPS = ("torch_zip", "pt2", "torchscript")


def write_like(opened: Opened, state: Mapping[str, Tensor], root: Path, out: Path) -> None:
    """Write the model at `root` to `out` with the weights of `state`.

    Args:
        opened: What `open_model` said of `root`.
        state: Weights by the loaded module's own names; names that are left out keep their value.
        root: The model that was opened; not touched.
        out: A path that does not exist yet; made whole or not at all.

    Raises:
        RectifyError: The form cannot carry these weights (unknown names, other shapes, NaN, a
            number too large for the file's dtype, tensors that share memory but now differ).
        DigestMismatchError: `root` is no longer what was opened.
    """
    _require_writable(opened)
    _write_changed(root, out, _changed(opened, state), opened.containers, opened.ref.digest)


def write_prompts_like(path: Path, prompts: Mapping[str, Tensor], out: Path) -> None:
    """Write the learned prompts at `path` to `out` with the numbers of `prompts`.

    Args:
        path: The file or folder that `--prompts` named; not touched.
        prompts: Tensors by `context` and the fields of `MetaNet`; others keep their value.
        out: A path that does not exist yet; made whole or not at all.

    Raises:
        RectifyError: The form cannot carry them (see `write_like`).
    """
    places, containers = places_of_prompts(path)
    if not set(prompts) <= set(places):
        missing = ", ".join(sorted(set(prompts) - set(places)))
        raise RectifyError(f"{path} holds no {missing}", hint="report this as a defect")
    changed = {name: (places[name], _cast(name, x, places[name])) for name, x in prompts.items()}
    _write_changed(path, out, changed, containers, tree_digest(path)[0])


def _write_changed(
    root: Path,
    out: Path,
    changed: Mapping[str, tuple[Place, Tensor]],
    containers: Mapping[str, str],
    digest: str,
) -> None:
    if out.exists():
        raise RectifyError(f"{out} exists already", hint="name a path that does not")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        copy = work / root.name
        _copy(root, copy)
        if tree_digest(copy)[0] != digest:
            raise DigestMismatchError(
                f"{root} is no longer {digest}", hint="scan it again, then rectify"
            )
        for file in sorted({place.file for place, _ in changed.values()}):
            path = file_of(copy, file).resolve()
            path.chmod(0o644)  # a copy; registries hand out read-only files
            _rewrite(path, {n: c for n, c in changed.items() if c[0].file == file})
            if containers.get(file) in _ZIPS:
                _renew(path)
        copy.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _require_writable(opened: Opened) -> None:
    odd = {c for c in opened.containers.values() if c not in WRITABLE}
    if odd or not opened.names:
        raise RectifyError(
            f"weights in {', '.join(sorted(odd)) or 'this form'} cannot be rewritten in place",
            hint="export the model as safetensors and rectify that",
        )


def _changed(opened: Opened, state: Mapping[str, Tensor]) -> dict[str, tuple[Place, Tensor]]:
    """Return {name: (place, new values in the file's dtype and shape)}."""
    changed: dict[str, tuple[Place, Tensor]] = {}
    original = opened.model.state_dict() if opened.model is not None else {}
    for name, value in state.items():
        file_name = opened.names.get(name)
        if file_name is None:
            if name not in original or not torch.equal(original[name].cpu(), value.cpu()):
                raise RectifyError(
                    f"{name} changed, but {opened.weights_file} has no such tensor",
                    hint="repair the image tower alone, or use a model that holds both towers",
                )
            continue
        place = opened.places[file_name]
        if name in original and torch.equal(original[name].cpu(), value.cpu()):
            continue  # the file's own bytes stay, whatever its dtype
        changed[name] = (place, _cast(name, value, place))
    return changed


def _cast(name: str, value: Tensor, place: Place) -> Tensor:
    if value.numel() != math.prod(place.shape):
        raise RectifyError(
            f"{name} has shape {list(value.shape)}, the file holds {list(place.shape)}",
            hint="a rectifier may change numbers, never shapes",
        )
    cast = value.detach().cpu().to(DTYPES[place.dtype]).reshape(place.shape).contiguous()
    if cast.is_floating_point() and not bool(torch.isfinite(cast).all()):
        raise RectifyError(
            f"{name} holds NaN, or numbers too large for {place.dtype}",
            hint="lower the rectifier's learning rate",
        )
    return cast


def _copy(root: Path, copy: Path) -> None:
    try:
        if root.is_file():
            shutil.copyfile(root, copy)
        else:
            shutil.copytree(root, copy, symlinks=True, copy_function=shutil.copyfile)
    except (OSError, shutil.Error) as error:
        raise RectifyError(
            f"cannot copy {root}: {error}", hint="check free space and permissions"
        ) from error


def _rewrite(path: Path, changed: Mapping[str, tuple[Place, Tensor]]) -> None:
    """Write every window into a private map of the file, storage by storage."""
    size = path.stat().st_size
    raw = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
    for place, value in changed.values():
        dtype = DTYPES[place.dtype]
        stop = place.start + place.count * dtype.itemsize
        stretch = raw[place.start : stop].clone().view(dtype)
        stretch.as_strided(place.shape, place.stride, place.offset).copy_(value)
        raw[place.start : stop] = stretch.view(torch.uint8)
    for name, (place, value) in changed.items():
        dtype = DTYPES[place.dtype]
        stop = place.start + place.count * dtype.itemsize
        stretch = raw[place.start : stop].clone().view(dtype)
        if not torch.equal(stretch.as_strided(place.shape, place.stride, place.offset), value):
            raise RectifyError(
                f"{name} shares its bytes in {path.name} with another tensor that is to differ",
                hint="export the model with its tensors untied (safetensors) and rectify that",
            )


def _renew(path: Path) -> None:
    try:
        with path.open("r+b") as stream:
            renew_checksums(stream)
    except Malformed as error:
        raise RectifyError(
            f"{path.name} could not be rewritten: {error}",
            hint="export the model as safetensors and rectify that",
        ) from error


__all__ = ["WRITABLE", "write_like", "write_prompts_like"]
