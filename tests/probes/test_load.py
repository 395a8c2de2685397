"""Folders of images and label files: what is read, and what is refused with which remedy."""

import io
import json
import logging
import struct
import tarfile
import zlib

import pytest
from PIL import Image

from gatekeeper.errors import ProbeError
from gatekeeper.probes.load import labels_of, load_labels, load_probes


def put(path, colour=(200, 30, 30), size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "a.png")
    put(tmp_path / "deep" / "er" / "b.JPG", (30, 200, 30))
    put(tmp_path / "c.tiff", (30, 30, 200))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._a.png").write_bytes(b"what a desktop leaves behind")
    return tmp_path


def refused(call, *needles):
    with pytest.raises(ProbeError) as caught:
        call()
    assert caught.value.exit_code == 2
    assert caught.value.hint
    for needle in needles:
        assert needle in str(caught.value)


def test_images_at_any_depth_are_found_and_other_files_ignored(folder):
    probes = load_probes(folder)
    assert [p.file for p in probes.probes] == ["a.png", "c.tiff", "deep/er/b.JPG"]
    assert probes.labels() == (None, None, None)
    assert not probes.embedded
    assert probes.name == folder.name


def test_labels_and_captions_come_from_labels_csv(folder):
    (folder / "labels.csv").write_text(
        "\ufefffile,label,caption\na.png,red thing,a red field\ndeep/er/b.JPG,green thing,\n"
    )
    probes = load_probes(folder)
    assert probes.labels() == ("red thing", None, "green thing")
    assert probes.probes[0].caption == "a red field"
    assert labels_of(probes).labels == ("green thing", "red thing")


def test_labels_change_the_digest_and_names_do_not_lie(folder):
    before = load_probes(folder).digest
    (folder / "labels.csv").write_text("file,label\na.png,red\n")
    assert load_probes(folder).digest != before
    assert load_probes(folder).digest == load_probes(folder).digest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "filepath,title\na.png,a red field\n"),
        ("pairs.tsv", "filepath\ttitle\na.png\ta red field\n"),
        ("pairs.jsonl", '{"image": "a.png", "text": "a red field"}\n'),
    ],
)
def test_clip_style_tables_bring_captions(folder, name, text):
    (folder / name).write_text(text)
    assert load_probes(folder).probes[0].caption == "a red field"


def test_webdataset_shards_are_read_without_unpacking(tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (9, 9), (1, 2, 3)).save(image, "PNG")
    members = {"x/0.png": image.getvalue(), "x/0.txt": b"a dark field", "x/0.cls": b"dark"}
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    (probe,) = load_probes(tmp_path).probes
    assert (probe.file, probe.label, probe.caption) == ("shard.tar/x/0.png", "dark", "a dark field")
    assert probe.image().getpixel((4, 4)) == (1, 2, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard.tar"]


def test_a_broken_shard_is_named(tmp_path):
    (tmp_path / "shard.tar").write_bytes(b"\1" * 2048)
    refused(lambda: load_probes(tmp_path), "shard.tar", "webdataset")


def test_no_folder_and_no_image_are_refused(tmp_path):
    refused(lambda: load_probes(tmp_path / "absent"), "absent", "is not a folder")
    (tmp_path / "readme.md").write_text("nothing")
    refused(lambda: load_probes(tmp_path), str(tmp_path), "holds no image", ".webp")


def test_an_unreadable_image_is_named(folder):
    whole = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    refused(lambda: load_probes(folder), "cut.png", "cannot be read as an image", "remove")


def test_an_empty_image_file_is_named(folder):
    (folder / "zero.jpg").touch()
    refused(lambda: load_probes(folder), "zero.jpg", "no image in it")


def test_a_postscript_file_dressed_as_png_is_not_run(folder):
    (folder / "evil.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    refused(lambda: load_probes(folder), "evil.png")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(folder):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    refused(lambda: load_probes(folder), "bomb.png", "12000 x 12000")


def test_a_thin_strip_is_refused(folder):
    put(folder / "strip.png", size=(3000, 2))
    refused(lambda: load_probes(folder), "strip.png", "1:50")


def test_an_image_that_changes_after_loading_is_not_used(folder):
    probe = load_probes(folder).probes[0]
    put(folder / "a.png", (0, 0, 0))
    refused(probe.image, "a.png", "has changed")


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        ("file,label,colour\na.png,x,y\n", ("unknown columns", "'colour'", "file,label[,caption]")),
        ("a.png,cat\n", ("unknown columns", "'a.png'")),
        ("file,label\nb.png,x\n", ("labels.csv line 2", "b.png", "not in")),
        ("file,label\n../a.png,x\n", ("outside the folder",)),
        ("file,label\na.png,\n", ("label is empty",)),
        ("file,label\na.png,x,y\n", ("3 values under 2 columns",)),
        ("file,label\na.png,x\na.png,y\n", ("'y'", "'x'", "one label")),
        (f"file,label\na.png,{'x' * 400}\n", ("400 characters",)),
        ("file,caption\na.png,x\n", ("file and label are missing",)),
        ("", ("file and label are missing",)),
    ],
)
def test_a_wrong_labels_csv_is_refused_with_the_remedy(folder, text, needles):
    (folder / "labels.csv").write_text(text)
    refused(lambda: load_probes(folder), "labels.csv", *needles)


def test_a_labels_csv_in_another_encoding_is_refused(folder):
    (folder / "labels.csv").write_bytes("file,label\na.png,Käse\n".encode("latin-1"))
    refused(lambda: load_probes(folder), "labels.csv", "UTF-8")


def test_label_files_of_both_forms(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\n dog \n")
    labels = load_labels(tmp_path / "names.txt")
    assert labels.labels == ("cat", "dog")
    assert labels.notes == ()
    (tmp_path / "names.json").write_text(
        json.dumps({"labels": ["cat", "dog"], "templates": ["one {}"]})
    )
    labels = load_labels(tmp_path / "names.json")
    assert (labels.labels, labels.templates) == (("cat", "dog"), ("one {}",))


def test_repeated_labels_merge_with_a_warning(tmp_path, caplog):
    (tmp_path / "names.txt").write_text("cat\ndog\ncat\n")
    with caplog.at_level(logging.WARNING):
        labels = load_labels(tmp_path / "names.txt")
    assert labels.labels == ("cat", "dog")
    assert "'cat'" in labels.notes[0]
    assert "'cat'" in caplog.text


@pytest.mark.parametrize(
    ("content", "needle"),
    [
        ("", "holds no label"),
        ("cat\n", "one label only"),
        ("cat\n" + "d" * 301, "301 characters"),
        ("cat\nd\x07og\n", "control characters"),
        ('{"labels": ["cat", "dog"], "templates": ["a photo"]}', "exactly one {}"),
        ('{"labels": ["cat", "dog"], "templates": ["{} and {}"]}', "exactly one {}"),
        ('{"labels": ["cat", "dog"], "templates": ["{0} {}"]}', "exactly one {}"),
        ('{"labels": ["cat", "dog"], "templates": []}', "templates is empty"),
        ('{"labels": ["cat", 3]}', "lists of texts"),
        ('{"names": ["cat", "dog"]}', "other keys"),
        ('{"labels": ["cat", ', "not JSON"),
    ],
)
def test_a_wrong_label_file_is_refused_with_the_remedy(tmp_path, content, needle):
    (tmp_path / "names.txt").write_text(content)
    refused(lambda: load_labels(tmp_path / "names.txt"), "names.txt", needle)


def test_a_missing_label_file_is_refused(tmp_path):
    refused(lambda: load_labels(tmp_path / "absent.txt"), "absent.txt")
