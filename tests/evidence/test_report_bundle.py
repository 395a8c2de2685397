"""Evidence is whole or not there, every file under its digest, and a full disk says so."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import report_samples as samples

from gatekeeper.errors import EvidenceError
from gatekeeper.evidence import bundle as module
from gatekeeper.evidence.bundle import write_bundle
from gatekeeper.evidence.report_json import read_report


def write(out, report=None, **more):
    return write_bundle(out, report or samples.failing(), **more)


def full(out):
    before, after = samples.quality()
    return write(
        out,
        exhibits=samples.exhibits(2),
        steps=samples.steps(),
        label_rows=samples.label_rows(),
        validation={"success": False, "results": []},
        trigger_files=samples.trigger_files(),
        before=before,
        after=after,
        rescan=samples.passing(),
    )


def tree(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_every_file_lies_there_under_its_digest(tmp_path):
    told = full(tmp_path / "out")
    assert told.root == tmp_path / "out"
    assert tree(told.root) == {file.path for file in told.files} | {"manifest.json"}
    assert {
        "report.json",
        "report.html",
        "validation.json",
        "validation.html",
        "triggers/trigger-1.png",
        "triggers/trigger-1.safetensors",
        "exhibits/002-triggered.png",
    } <= tree(told.root)
    for file in told.files:
        blob = (told.root / file.path).read_bytes()
        assert (hashlib.sha256(blob).hexdigest(), len(blob)) == (file.sha256, file.size_bytes)
    manifest = (told.root / "manifest.json").read_bytes()
    assert told.digest == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    assert [f["path"] for f in json.loads(manifest)["files"]] == [f.path for f in told.files]
    assert read_report((told.root / "report.json").read_text()).after == samples.quality()[1]


def test_same_scan_same_bundle(tmp_path):
    assert full(tmp_path / "a").digest == full(tmp_path / "b").digest
    assert write(tmp_path / "c").digest != full(tmp_path / "d").digest


def test_a_second_bundle_takes_the_place_of_the_first_and_leaves_strangers_alone(tmp_path):
    out = tmp_path / "out"
    full(out)
    (out / "notes.txt").write_text("mine")
    (out / "model").mkdir()
    (out / "model" / "weights").write_text("mine too")
    told = write(out, samples.passing())
    assert tree(out) == {f.path for f in told.files} | {
        "manifest.json",
        "notes.txt",
        "model/weights",
    }
    assert read_report((out / "report.json").read_text()).report == samples.passing()
    assert list(tmp_path.iterdir()) == [out]  # nothing staged is left


def test_a_manifest_from_elsewhere_deletes_nothing_outside(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("x")
    (out / "mine.txt").write_text("x")
    paths = ["../precious", "triggers/../../precious", "mine.txt", str(tmp_path / "precious"), ""]
    (out / "manifest.json").write_text(json.dumps({"files": [{"path": p} for p in paths]}))
    write(out)
    assert (tmp_path / "precious").exists()
    assert (out / "mine.txt").exists()


@pytest.mark.parametrize("manifest", ["", "[]", '{"files": 3}', '{"files": [3]}', "\xff"])
def test_a_broken_manifest_is_no_obstacle(tmp_path, manifest):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(manifest, encoding="latin-1")
    assert write(out).files


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "/etc/evil.png",
        "triggers/../../evil.png",
        "evil.png",
        "triggers\\evil.png",
        "triggers//evil.png",
        "triggers/a\0.png",
        "report.json",
        "",
    ],
)
def test_a_trigger_file_outside_its_folder_is_refused(tmp_path, name):
    with pytest.raises(EvidenceError, match="trigger file"):
        write(tmp_path / "out", trigger_files={name: b"x"})
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_is_exit_4_and_leaves_the_earlier_bundle(tmp_path, monkeypatch, exists):
    out = tmp_path / "out"
    if exists:
        before = write(out, samples.passing())
    left = 3

    def fsync(descriptor):
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", fsync)
    with pytest.raises(EvidenceError, match="No space left on device") as refused:
        full(out)
    assert refused.value.exit_code == 4
    assert "no decision was recorded" in refused.value.hint
    if exists:
        assert tree(out) == {f.path for f in before.files} | {"manifest.json"}
    else:
        assert not out.exists()
    assert not [p for p in tmp_path.iterdir() if p != out]


def test_a_real_full_device_is_reported_too(tmp_path):
    """No mock: /dev/full takes no byte."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")

    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / "report.json").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        module._write(stage, "report.json", b"x" * 100_000)


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_out_that_is_a_file_or_below_one_is_exit_4(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EvidenceError, match="could not be written"):
            write(out)
    assert (tmp_path / "file").read_text() == "x"
    assert tree(tmp_path) == {"file"}


def test_others_may_read_a_bundle(tmp_path):
    told = write(tmp_path / "out")
    assert told.root.stat().st_mode & 0o055 == 0o055
