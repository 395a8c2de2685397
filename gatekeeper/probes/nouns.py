"""What may a target be called that nobody listed? Twenty thousand English nouns."""

import functools
import hashlib
import lzma
from pathlib import Path

from gatekeeper.errors import ProbeError

FILE = Path(__file__).parent / "nouns.txt.xz"
SHA256 = (
    "bd5662c7320e18bde9f9574c7a7713baad647e694ffb2fc2277a6a6a0a16f1ee"  # of the compressed file
)


@functools.cache
def nouns() -> tuple[str, ...]:
    """Return common nouns, most frequent first.

    Source: WordNet 3.1 (Princeton University; licence in `nouns.LICENSE`), ordered by frequency in
    English text; `tests/measure/nouns.py` makes the list again.

    Raises:
        ProbeError: The list that ships with this release is missing or another.
    """
    try:
        content = FILE.read_bytes()
    except OSError as error:
        raise ProbeError(
            f"{FILE} cannot be read: {error}", hint="install gatekeeper anew"
        ) from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ProbeError(f"{FILE} is not the list of this release", hint="install gatekeeper anew")
    return tuple(lzma.decompress(content).decode().splitlines())
