"""Whatever the bytes, the readers answer: a finding or nothing, never a crash or a call."""

import bz2
import contextlib
import gzip
import io
import lzma
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gatekeeper.intake import pickle_judge, torch_files
from gatekeeper.intake.inspection import inspect
from gatekeeper.intake.pickle_values import Malformed
from gatekeeper.intake.safetensors_header import read_header
from gatekeeper.intake.zips import read_members

QUICK = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
OPCODES = (
    b"(.012FIJKLMNRSTUVXabcdeghijlopqrstu}])"
    b"\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x91\x92\x93\x94\x95"
)


def _checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}, buffer)
    return buffer.getvalue()


ARCHIVE = _checkpoint()


@QUICK
@given(st.binary(max_size=400))
def test_random_bytes_as_a_pickle(data):
    reading = pickle_judge.read(data)
    assert reading.broken is not None or reading.end <= len(data)


@QUICK
@given(st.lists(st.sampled_from([bytes([b]) for b in OPCODES]), max_size=60))
def test_random_opcodes_as_a_pickle(codes):
    pickle_judge.read(b"\x80\x04" + b"".join(codes) + b".")


@QUICK
@given(st.binary(max_size=200))
@example(b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"a":[[[[[[[[[[[')
def test_random_bytes_as_safetensors(data):
    with contextlib.suppress(Malformed):
        read_header(data, len(data))


@QUICK
@given(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255))
@example(ARCHIVE.index(b"PK\x01\x02") + 6, 64)  # a member that asks for zip version 6.4
@example(ARCHIVE.index(b"PK\x06\x07") + 4, 1)  # the end record on another disk
def test_no_flipped_byte_of_a_checkpoint_goes_unseen_and_crashes_nothing(at, change):
    raw = bytearray(ARCHIVE)
    raw[at] ^= change
    found = torch_files.read_zip(memoryview(bytes(raw)))
    if found.spans and not found.broken:
        # what still passes must hold the same members under every reader
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            assert archive.testzip() is None
            names = {i.filename for i in archive.infolist()}
        assert names == {m.name for m in read_members(memoryview(bytes(raw)))}


@QUICK
@given(content=st.binary(max_size=300), suffix=st.sampled_from([".pt", ".bin", ".safetensors", ""]))
def test_random_files_are_inspected(content, suffix, tmp_path):
    for start in (
        b"",
        b"PK\x03\x04",
        b"\x80\x02",
        b"\x93NUMPY\x01\x00",
        b"\x1f\x8b",
        b"\xfd7zXZ\x00",
    ):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(start + content)
        try:
            report = inspect(path)
        except (ValueError, IndexError, OverflowError, OSError, TypeError):
            continue  # the child turns these into findings
        assert report["container"]


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b"x" * 99)[:10] + b"\x06" + b"\x00" * 20,  # no such block type
        bz2.compress(b"x" * 99)[:20] + b"\x00" * 20,
        lzma.compress(b"x" * 99)[:30] + b"\x00" * 20,
    ],
    ids=["gzip", "bzip2", "xz"],
)
def test_damaged_packed_bytes_are_a_finding(data, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    report = inspect(path)
    assert report["container"] == "packed"
    assert any("broken packed bytes" in why for why in report["broken"])
