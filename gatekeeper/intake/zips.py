"""Is this zip archive the same archive to every reader?

Python's zipfile believes the central directory, torch's reader and others believe parts of the
local headers; an archive in which they disagree shows one content to a scanner and another to the
program that loads it (CVE-2025-1944, CVE-2025-1945). Only archives that leave no room for that
pass: every byte is accounted for, both headers agree, and every checksum holds.

Format: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from gatekeeper.intake.pickle_values import Malformed

MAX_MEMBERS = 100_000
MAX_RATIO = 200  # deflate reaches about 1030 on zeros; text and code stay below 50
MAX_INFLATED = 4 << 30  # bytes, over all compressed members
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _LOCATOR64, DESCRIPTOR = b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08"
_ENCRYPTED, DESCRIBED, _PATCHED, _MASKED = 0x1, 0x8, 0x20, 0x2000
CHUNK = 1 << 22
_MAX32 = 0xFFFFFFFF
_NEWEST = 45  # zip64; what newer versions add no checkpoint uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of the archive; `start` is where its (stored or deflated) bytes begin."""

    name: str
    start: int
    stored_bytes: int
    size_bytes: int
    deflated: bool
    crc: int


def read_members(data: memoryview) -> tuple[Member, ...]:
    """Return the members of the archive in `data`, in the order of their bytes; content checked.

    Raises:
        Malformed: Headers disagree, members overlap or repeat, bytes are unexplained, something is
            encrypted, a checksum fails, or the content is out of proportion.
    """
    count, directory, directory_size, tail = end_record(data)
    listed = list(entries(data, directory, directory_size, count))
    _no_twins(listed)
    members: list[Member] = []
    at = 0
    for entry in sorted(listed, key=lambda e: e.offset):
        member, at = _local(data, entry, at)
        members.append(member)
    if at != directory:
        raise Malformed(f"{directory - at} bytes before the directory belong to no member")
    if directory + directory_size != tail:
        raise Malformed("bytes between the directory and its end record")
    _bounded(members)
    for member in members:
        _check_content(data, member)
    return tuple(members)


def content(data: memoryview, member: Member, limit: int = 1 << 30) -> bytes:
    """Return what `member` holds, at most `limit` bytes.

    Raises:
        Malformed: It is larger.
    """
    if member.size_bytes > limit:
        raise Malformed(f"{member.name}: {member.size_bytes} bytes, expected at most {limit}")
    return b"".join(_pieces(data, member))


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    offset: int


def end_record(data: memoryview) -> tuple[int, int, int, int]:
    """Return (members, offset and size of the directory, where the end records begin)."""
    if len(data) < 22 or data[-22:-18] != _END:
        raise Malformed("the archive does not end with its end record (trailing bytes or comment)")
    disk, start_disk, here, count, size, offset, comment = struct.unpack("<4H2IH", data[-18:])
    if disk or start_disk or here != count or comment:
        raise Malformed("an archive in several parts, or with a comment")
    end = len(data) - 22
    if data[end - 20 : end - 16] == _LOCATOR64:
        return _end64(data, end, (count, size, offset))
    if count == 0xFFFF or _MAX32 in (size, offset):
        raise Malformed("a zip64 archive without its zip64 records")
    return count, offset, size, end


def _end64(data: memoryview, end: int, small: tuple[int, int, int]) -> tuple[int, int, int, int]:
    holder, where, disks = struct.unpack("<IQI", data[end - 16 : end])
    if holder or disks > 1 or where != end - 20 - 56 or data[where : where + 4] != _END64:
        raise Malformed("the zip64 end record is not where its locator says")
    length, _, _, disk, start, here, count, size, offset = struct.unpack(
        "<Q2H2I4Q", data[where + 4 : where + 56]
    )
    if length != 44 or disk or start or here != count:
        raise Malformed("an odd zip64 end record")
    for narrow, wide, most in zip(
        small, (count, size, offset), (0xFFFF, _MAX32, _MAX32), strict=True
    ):
        if narrow not in (wide, most):
            raise Malformed("the two end records disagree")
    return count, offset, size, where


def entries(data: memoryview, at: int, size: int, count: int) -> Iterator[_Entry]:
    """Yield what the directory says, in its order; raises Malformed where it is broken."""
    if count > MAX_MEMBERS:
        raise Malformed(f"{count} members, expected at most {MAX_MEMBERS}")
    stop = at + size
    if stop > len(data):
        raise Malformed("the directory reaches beyond the file")
    for _ in range(count):
        if at + 46 > stop or data[at : at + 4] != _CENTRAL:
            raise Malformed("the directory is shorter than its count")
        fields = struct.unpack("<6H3I5H2I", data[at + 4 : at + 46])
        needed, flags, method = fields[1:4]
        crc, stored, full, name_len, extra_len, comment_len, disk = fields[6:13]
        offset = fields[15]
        name = bytes(data[at + 46 : at + 46 + name_len])
        extra = bytes(data[at + 46 + name_len : at + 46 + name_len + extra_len])
        if comment_len or disk:
            raise Malformed(f"{name!r}: a comment or another disk")
        if needed > _NEWEST:  # some readers refuse it, others do not
            raise Malformed(f"{name!r}: asks for zip version {needed / 10}")
        full, stored, offset = _widen(extra, [full, stored, offset], name)
        yield _Entry(name, flags, method, crc, stored, full, offset)
        at += 46 + name_len + extra_len
    if at != stop:
        raise Malformed("the directory is longer than its count")


def _widen(extra: bytes, values: list[int], name: bytes) -> list[int]:
    """Replace 32-bit fields that are full by those of the zip64 extra field."""
    at, wide, seen = 0, b"", False
    while at < len(extra):
        if at + 4 > len(extra):
            raise Malformed(f"{name!r}: a broken extra field")
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        if at + 4 + length > len(extra):
            raise Malformed(f"{name!r}: a broken extra field")
        if kind == 1:
            if seen:
                raise Malformed(f"{name!r}: two zip64 fields")
            wide, seen = extra[at + 4 : at + 4 + length], True
        at += 4 + length
    out, used = [], 0
    for value in values:
        if value == _MAX32:
            if used + 8 > len(wide):
                raise Malformed(f"{name!r}: a zip64 size is missing")
            (value,) = struct.unpack("<Q", wide[used : used + 8])
            used += 8
        out.append(value)
    return out


def _no_twins(entries: list[_Entry]) -> None:
    names: set[bytes] = set()
    for entry in entries:
        plain = entry.name.lower()  # readers on some systems fold case
        if plain in names:
            raise Malformed(f"two members called {entry.name!r}")
        names.add(plain)
        text = entry.name
        if not text or b"\\" in text or text.startswith(b"/") or b".." in text.split(b"/"):
            raise Malformed(f"a member called {text!r}")
        if any(byte < 0x20 or byte == 0x7F for byte in text):
            raise Malformed(f"a member called {text!r}")


def _local(data: memoryview, entry: _Entry, at: int) -> tuple[Member, int]:
    """Return the member behind `entry`, whose local header must lie at `at`, and its end."""
    name = entry.name.decode("utf-8", "backslashreplace")
    if entry.offset != at:
        raise Malformed(f"{name}: overlaps another member, or bytes lie before it")
    if at + 30 > len(data) or data[at : at + 4] != _LOCAL:
        raise Malformed(f"{name}: no local header")
    needed, flags, method, _, _, crc, stored, full, name_len, extra_len = struct.unpack(
        "<5H3I2H", data[at + 4 : at + 30]
    )
    start = at + 30 + name_len + extra_len
    local_name = bytes(data[at + 30 : at + 30 + name_len])
    if (local_name, flags, method) != (entry.name, entry.flags, entry.method):
        raise Malformed(f"{name}: local and central header disagree on name, flags or method")
    if needed > _NEWEST:
        raise Malformed(f"{name}: asks for zip version {needed / 10}")
    if flags & (_ENCRYPTED | _PATCHED | _MASKED):
        raise Malformed(f"{name}: marked as encrypted")
    if method not in (0, 8):
        raise Malformed(f"{name}: compression method {method}")
    if method == 0 and entry.stored != entry.size:
        raise Malformed(f"{name}: stored in {entry.stored} bytes, said to be {entry.size}")
    end = start + entry.stored
    if end > len(data):
        raise Malformed(f"{name}: reaches beyond the file")
    extra = bytes(data[at + 30 + name_len : start])
    full, stored = _widen(extra, [full, stored], entry.name)
    given = (crc, stored, full)
    if given != (entry.crc, entry.stored, entry.size) and not (
        flags & DESCRIBED and given == (0, 0, 0)
    ):
        raise Malformed(f"{name}: local and central header disagree on size or checksum")
    if flags & DESCRIBED:
        end = _descriptor(data, end, entry, name)
    member = Member(
        name=name,
        start=start,
        stored_bytes=entry.stored,
        size_bytes=entry.size,
        deflated=method == 8,
        crc=entry.crc,
    )
    return member, end


def _descriptor(data: memoryview, at: int, entry: _Entry, name: str) -> int:
    said = (entry.crc, entry.stored, entry.size)
    for form in ("<3I", "<I2Q"):
        length = struct.calcsize(form)
        signed = data[at : at + 4] == DESCRIPTOR and at + 4 + length <= len(data)
        if signed and struct.unpack(form, data[at + 4 : at + 4 + length]) == said:
            # the next header decides between the two widths, should both fit
            return at + 4 + length
    raise Malformed(f"{name}: its data descriptor disagrees with the directory")


def _bounded(members: list[Member]) -> None:
    inflated = 0
    for member in members:
        if member.deflated:
            inflated += member.size_bytes
            if member.size_bytes > MAX_RATIO * max(member.stored_bytes, 64):
                raise Malformed(
                    f"{member.name}: {member.size_bytes} bytes out of {member.stored_bytes}, a bomb"
                )
    if inflated > MAX_INFLATED:
        raise Malformed(f"{inflated} bytes when unpacked, expected at most {MAX_INFLATED}")


def _check_content(data: memoryview, member: Member) -> None:
    crc, size = 0, 0
    for piece in _pieces(data, member):
        crc, size = zlib.crc32(piece, crc), size + len(piece)
    if size != member.size_bytes:
        raise Malformed(f"{member.name}: {size} bytes, said to be {member.size_bytes}")
    if crc != member.crc:
        raise Malformed(f"{member.name}: its checksum does not hold")


def _pieces(data: memoryview, member: Member) -> Iterator[bytes | memoryview]:
    stop = member.start + member.stored_bytes
    if not member.deflated:
        for at in range(member.start, stop, CHUNK):
            yield data[at : min(at + CHUNK, stop)]
        return
    inflater, made = zlib.decompressobj(-15), 0
    try:
        for at in range(member.start, stop, CHUNK):
            rest: bytes | memoryview = data[at : min(at + CHUNK, stop)]
            while rest:
                piece = inflater.decompress(rest, CHUNK)
                made += len(piece)
                if made > member.size_bytes:
                    raise Malformed(f"{member.name}: unpacks to more than it says")
                yield piece
                rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise Malformed(f"{member.name}: its packed bytes are broken") from error
    yield inflater.flush()
    if not inflater.eof or inflater.unused_data:
        raise Malformed(f"{member.name}: its packed bytes end too early or too late")
