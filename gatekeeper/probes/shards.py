"""Which images and captions does a webdataset shard hold? Nothing is unpacked to disk."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gatekeeper.errors import ProbeError
from gatekeeper.probes.labels import check_label
from gatekeeper.probes.picture import is_image_name

MAX_MEMBER_BYTES = 64_000_000
MAX_SHARDS_BYTES = 4_000_000_000  # images of shards are held in memory, still encoded

_TEXTS = (".txt", ".caption", ".json", ".cls", ".label")


@dataclass(slots=True, kw_only=True)
class Sample:
    """Files of one shard that share a key: one image and what is said of it."""

    file: str = ""  # "shard.tar/key.jpg", for people
    image: bytes = b""
    label: str | None = None
    caption: str | None = None
    texts: dict[str, bytes] = field(default_factory=dict)


def read_shard(path: Path) -> Iterator[Sample]:
    """Yield the samples of one uncompressed `.tar` (webdataset: `key.jpg`, `key.txt`, `key.json`).

    Raises:
        ProbeError: Not a tar, a member that is too large, sidecars that cannot be read.
    """
    samples: dict[str, Sample] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isfile():
                    _take(shard, member, path.name, samples)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise ProbeError(
            f"{path} cannot be read as a webdataset shard: {error}",
            hint="give an uncompressed .tar, or the images themselves",
        ) from error
    for sample in samples.values():
        if sample.image:
            _describe(sample)
            yield sample


def _take(
    shard: tarfile.TarFile, member: tarfile.TarInfo, name: str, samples: dict[str, Sample]
) -> None:
    path = PurePosixPath(member.name)
    suffix = path.suffix.lower()
    if path.name.startswith(".") or not (is_image_name(path.name) or suffix in _TEXTS):
        return
    if member.size > MAX_MEMBER_BYTES:
        raise ProbeError(
            f"{name}/{member.name} is {member.size} bytes, at most {MAX_MEMBER_BYTES} are read",
            hint="remove the file from the shard",
        )
    stream = shard.extractfile(member)
    content = stream.read() if stream else b""
    sample = samples.setdefault(str(path.with_name(path.name.split(".", 1)[0])), Sample())
    if is_image_name(path.name):
        if sample.file:
            raise ProbeError(
                f"{name}: two images share the key of {member.name}",
                hint="name each image once in a shard",
            )
        sample.file, sample.image = f"{name}/{member.name}", content
    else:
        sample.texts[suffix] = content


def _describe(sample: Sample) -> None:
    try:
        fields = json.loads(sample.texts[".json"]) if ".json" in sample.texts else {}
        words = {k: v.decode().strip() for k, v in sample.texts.items() if k != ".json"}
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ProbeError(
            f"what stands beside {sample.file} cannot be read: {error}",
            hint="write captions as UTF-8 text, or as one JSON object",
        ) from error
    fields = fields if isinstance(fields, dict) else {}
    caption = words.get(".txt") or words.get(".caption") or fields.get("caption")
    label = words.get(".label") or words.get(".cls") or fields.get("label")
    sample.caption = caption if isinstance(caption, str) and caption else None
    if isinstance(label, str) and label and not label.isdigit():  # a number names no class
        sample.label = check_label(label, sample.file)
