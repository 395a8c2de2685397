"""Renew the checksums of an archive whose stored members were rewritten in place."""

import mmap
import struct
import zlib
from typing import BinaryIO

from gatekeeper.intake.pickle_values import Malformed
from gatekeeper.intake.zips import CHUNK, DESCRIBED, DESCRIPTOR, end_record, entries, read_members


def renew_checksums(stream: BinaryIO) -> None:
    """Set the checksums of an archive (open for update) whose stored members were rewritten.

    Only checksum fields change: in the directory, and in the local header or data descriptor.

    Raises:
        Malformed: The archive is not one that `read_members` would have accepted before.
    """
    with mmap.mmap(stream.fileno(), 0) as mapped:
        data = memoryview(mapped)
        try:
            _renew(data)
            read_members(data)
        finally:
            data.release()


def _renew(data: memoryview) -> None:
    count, at, size, _ = end_record(data)
    for entry in list(entries(data, at, size, count)):
        name_len, extra_len = struct.unpack("<2H", data[at + 28 : at + 32])
        local = entry.offset
        start = local + 30 + sum(struct.unpack("<2H", data[local + 26 : local + 30]))
        if entry.method == 0:
            crc = 0
            for piece in range(start, start + entry.stored, CHUNK):
                crc = zlib.crc32(data[piece : min(piece + CHUNK, start + entry.stored)], crc)
            fresh, stale = struct.pack("<I", crc), struct.pack("<I", entry.crc)
            data[at + 16 : at + 20] = fresh
            if data[local + 14 : local + 18] == stale and not entry.flags & DESCRIBED:
                data[local + 14 : local + 18] = fresh
            if entry.flags & DESCRIBED:
                end = start + entry.stored
                if data[end : end + 4] != DESCRIPTOR or data[end + 4 : end + 8] != stale:
                    raise Malformed(f"{entry.name!r}: no data descriptor")
                data[end + 4 : end + 8] = fresh
                if data[local + 14 : local + 18] == stale:
                    data[local + 14 : local + 18] = fresh
        at += 46 + name_len + extra_len
