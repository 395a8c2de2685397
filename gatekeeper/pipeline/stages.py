"""How is a finished stage of a repair written down and read back?"""

import json
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from gatekeeper.errors import RectifyError, UtilityLostError
from gatekeeper.evidence.records import from_plain, to_plain
from gatekeeper.pipeline.checkpoint import read_tensors, write_tensors
from gatekeeper.rectify.base import Ailment, Rectified
from gatekeeper.rectify.proof import Proved
from gatekeeper.triggers import load_trigger, save_trigger
from gatekeeper.types import Json, Proof, Reply

_TENSORS = (
    "state",
    "prompts",
    "against",
    "proved",
)  # fields of a repair that are kept beside its JSON
PROOF = "proof"  # folder of a proof that the choice of a method has made already
_ERRORS = {kind.__name__: kind for kind in (RectifyError, UtilityLostError)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mended:
    """One repair, what it cost, and the limit that it missed."""

    repaired: Rectified
    error: RectifyError | None
    cpu_seconds: float


def write_mended(folder: Path, mended: Mended) -> None:
    """Write a repair into `folder`."""
    repaired = mended.repaired
    plain = {
        f.name: to_plain(getattr(repaired, f.name))
        for f in fields(Rectified)
        if f.name not in _TENSORS
    }
    error = mended.error
    told: Json = None
    if error is not None:
        told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    _write_json(
        folder / "repair.json",
        {"repaired": plain, "error": told, "cpu_seconds": mended.cpu_seconds},
    )
    write_tensors(folder / "state.safetensors", repaired.state)
    write_tensors(folder / "prompts.safetensors", repaired.prompts)
    _write_ailments(folder, repaired.against)
    if isinstance(repaired.proved, Proved):
        (folder / PROOF).mkdir()
        write_proved(folder / PROOF, repaired.proved)


def read_mended(folder: Path) -> Mended:
    """Return what `write_mended` wrote."""
    document = _read_json(folder / "repair.json")
    hints = typing.get_type_hints(Rectified)
    plain = {name: from_plain(hints[name], value) for name, value in document["repaired"].items()}
    repaired = Rectified(
        **plain,
        state=read_tensors(folder / "state.safetensors"),
        prompts=read_tensors(folder / "prompts.safetensors"),
        against=_read_ailments(folder),
    )
    error: RectifyError | None = None
    if told := document["error"]:
        error = _ERRORS[told["kind"]](told["message"], hint=told["hint"])
        error.rejected = repaired
    return Mended(repaired=repaired, error=error, cpu_seconds=document["cpu_seconds"])


def write_proved(folder: Path, proved: Proved) -> None:
    """Write a proof into `folder`."""
    replies = []
    for number, reply in enumerate(proved.replies):
        (folder / f"{number}-clean.png").write_bytes(reply.clean_png)
        (folder / f"{number}-triggered.png").write_bytes(reply.triggered_png)
        replies.append({k: v for k, v in asdict(reply).items() if not isinstance(v, bytes)})
    _write_json(
        folder / "proof.json", {"record": to_plain(proved.record), "replies": to_plain(replies)}
    )
    write_tensors(folder / "begun.safetensors", proved.begun)
    _write_ailments(folder, proved.returned)


def read_proved(folder: Path) -> Proved:
    """Return what `write_proved` wrote."""
    document = _read_json(folder / "proof.json")
    replies = tuple(
        Reply(
            **{
                **said,
                "suspect": tuple(said["suspect"]),
                "cleaned": tuple(said["cleaned"]),
                "clean_png": (folder / f"{number}-clean.png").read_bytes(),
                "triggered_png": (folder / f"{number}-triggered.png").read_bytes(),
            }
        )
        for number, said in enumerate(document["replies"])
    )
    begun: dict[str, Tensor] = read_tensors(folder / "begun.safetensors")
    return Proved(
        record=from_plain(Proof, document["record"]),
        replies=replies,
        returned=_read_ailments(folder),
        begun=begun,
    )


def _write_ailments(folder: Path, ailments: Sequence[Ailment]) -> None:
    told: list[Json] = []
    for number, ailment in enumerate(ailments):
        file = f"trigger-{number}.safetensors" if ailment.trigger is not None else None
        if ailment.trigger is not None:
            save_trigger(ailment.trigger, folder / str(file))
        told.append({"target": ailment.target, "file": file})
    _write_json(folder / "triggers.json", told)


def _read_ailments(folder: Path) -> tuple[Ailment, ...]:
    return tuple(
        Ailment(
            target=said["target"],
            trigger=load_trigger(folder / said["file"]) if said["file"] else None,
        )
        for said in _read_json(folder / "triggers.json")
    )


def _write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
