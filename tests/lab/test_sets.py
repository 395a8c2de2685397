"""A set is split by seed, its parts share no image, and every label with several is everywhere."""

import hashlib
import shutil

import pytest

from gatekeeper.errors import ProbeError
from gatekeeper.lab.sets import PARTS, embedded_set, folder_set, read_set, share_of, write_set
from gatekeeper.lab.shapes import World
from gatekeeper.probes.labels import Labels

TINY = World(size=16, shapes=("circle", "bar"), colours=("red", "blue"))


def digests(made):
    return [{probe.sha256 for probe in getattr(made, part).probes} for part in PARTS]


def apart(made):
    parts = digests(made)
    return sum(map(len, parts)) == len(set().union(*parts))


@pytest.fixture
def folder(tmp_path):
    """24 images of 4 labels, a folder for each label."""
    root = tmp_path / "mine"
    for probe in TINY.render(24, 5, "mine").probes:
        inside = root / probe.label.replace(" ", "_")
        inside.mkdir(parents=True, exist_ok=True)
        probe.image().save(inside / probe.file)
    return root


def test_the_embedded_set_is_rendered_the_same_way_every_time():
    one, again, other = (
        embedded_set("shapes", seed=s, train=24, probes=8, judge=8, world=TINY) for s in (0, 0, 1)
    )
    assert one.digest == again.digest != other.digest
    assert one.images == {"train": 24, "probes": 8, "judge": 8}
    assert apart(one)
    assert not digests(one)[0] & digests(other)[0]


def test_the_worlds_images_differ_by_more_than_their_label():
    drawn = World().render(2 * len(World().labels), 0, "x").probes
    assert len({probe.sha256 for probe in drawn}) == len(drawn)
    assert drawn[0].array.shape == (64, 64, 3)
    assert drawn[0].label == drawn[len(World().labels)].label


def test_a_folder_is_split_without_an_image_in_two_parts(folder):
    made = folder_set("mine", folder, seed=0, probes=6, judge=8)
    assert made.images == {"train": 10, "probes": 6, "judge": 8}
    assert apart(made)
    assert made.labels.labels == ("blue bar", "blue circle", "red bar", "red circle")
    for part in PARTS:
        assert set(getattr(made, part).labels()) == set(made.labels.labels), "stratified"


def test_the_split_follows_the_seed(folder):
    one, again, other = (folder_set("m", folder, seed=s, probes=6, judge=8) for s in (3, 3, 4))
    assert one.digest == again.digest != other.digest


def test_a_repeated_image_counts_once(folder):
    first = next(folder.rglob("*.png"))
    shutil.copy(first, first.with_name("again.png"))
    made = folder_set("mine", folder, seed=0, probes=6, judge=8)
    assert sum(made.images.values()) == 24
    assert apart(made)


def test_what_was_written_reads_back_with_its_bytes(folder, tmp_path):
    made = folder_set("mine", folder, seed=0, probes=6, judge=8)
    write_set(made, tmp_path / "zoo" / "mine")
    back = read_set(tmp_path / "zoo" / "mine")
    assert digests(back) == digests(made)
    assert back.judge.labels() == made.judge.labels()
    assert back.labels.labels == made.labels.labels
    assert (tmp_path / "zoo/mine/judge/labels.csv").read_text().startswith("file,label\n")
    for probe in back.train.probes:
        assert hashlib.sha256(probe.path.read_bytes()).hexdigest() == probe.sha256


def test_a_rendered_set_keeps_its_pixels_on_disk(tmp_path):
    made = embedded_set("shapes", seed=0, train=8, probes=4, judge=4, world=TINY)
    write_set(made, tmp_path / "shapes")
    back = read_set(tmp_path / "shapes").train.probes
    for old, new in zip(made.train.probes, back, strict=True):
        assert new.image().tobytes() == old.image().tobytes()


def test_images_without_a_label_are_refused(tmp_path):
    for probe in TINY.render(12, 0, "x").probes:
        probe.image().save(tmp_path / probe.file)
    with pytest.raises(ProbeError, match="carry no label") as caught:
        folder_set("x", tmp_path, seed=0, probes=2, judge=2)
    assert "labels.csv" in caught.value.hint


def test_too_few_images_are_refused_with_the_count(folder):
    with pytest.raises(ProbeError, match="holds 24 labelled images"):
        folder_set("mine", folder, seed=0, probes=10, judge=10)


def test_labels_that_no_head_has_are_refused(folder):
    names = Labels(labels=("red bar", "blue bar"))
    with pytest.raises(ProbeError, match="2 labels are none of the names"):
        folder_set("mine", folder, seed=0, probes=4, judge=4, names=names)


def test_a_share_is_a_narrow_domain_or_a_half():
    probes = TINY.render(24, 0, "x")
    narrow = share_of(probes, labels=["red bar"])
    assert set(narrow.labels()) == {"red bar"}
    halves = [{p.sha256 for p in share_of(probes, part=(i, 2)).probes} for i in (0, 1)]
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == 24
    with pytest.raises(ProbeError, match="no image of"):
        share_of(probes, labels=["green star"])
