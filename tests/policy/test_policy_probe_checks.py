"""Probes that cannot carry a verdict are refused before a scan starts."""

import numpy as np
import pytest

from gatekeeper.errors import ProbeError
from gatekeeper.policy.probe_checks import check_probes
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import Probe, ProbeSet

LABELS = Labels(labels=("cat", "dog"))


def probe(number, *, label=None, sha=None, side=64, path=None):
    array = None if path else np.full((side, side, 3), number % 256, dtype=np.uint8)
    return Probe(
        file=f"{number:03d}.png",
        sha256=sha or f"{number:064x}",
        label=label,
        array=array,
        path=path,
    )


def probe_set(*probes):
    return ProbeSet(name="mine", probes=probes)


def test_good_probes_pass_without_warnings():
    told = check_probes(probe_set(*(probe(i, label="cat") for i in range(8))), LABELS)
    assert (told["images"], told["distinct"], told["labelled"]) == (8, 8, 8)
    assert told["warnings"] == []
    assert told["validation"]["success"] is True


def test_unlabelled_probes_pass():
    assert check_probes(probe_set(probe(1), probe(2)), LABELS)["labelled"] == 0


def test_no_image_is_an_error():
    with pytest.raises(ProbeError, match="0 images"):
        check_probes(probe_set(), LABELS)


def test_fewer_than_asked_is_an_error():
    with pytest.raises(ProbeError, match="2 images, at least 3") as refused:
        check_probes(probe_set(probe(1), probe(2)), LABELS, at_least=3)
    assert "--probes" in refused.value.hint


def test_an_unreadable_image_is_named(tmp_path):
    broken = tmp_path / "x.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ProbeError, match=r"unreadable: 002\.png"):
        check_probes(probe_set(probe(1), probe(2, path=broken)), LABELS)
    with pytest.raises(ProbeError, match=r"unreadable: 002\.png"):
        check_probes(probe_set(probe(1), probe(2, path=tmp_path / "gone.png")), LABELS)


def test_a_few_copies_are_a_warning_and_mostly_copies_an_error():
    told = check_probes(probe_set(probe(1), probe(2), probe(3, sha=f"{1:064x}")), LABELS)
    assert told["distinct"] == 2
    assert "003.png" in told["warnings"][0]
    copies = [probe(i, sha="a" * 64) for i in range(8)]
    with pytest.raises(ProbeError, match="7 of 8 images repeat"):
        check_probes(probe_set(*copies), LABELS)


def test_a_wrong_label_file_is_an_error_and_one_strange_label_a_warning():
    told = check_probes(probe_set(probe(1, label="cat"), probe(2, label="yak")), LABELS)
    assert "yak" in told["warnings"][0]
    with pytest.raises(ProbeError, match="none of the images' labels") as refused:
        check_probes(probe_set(probe(1, label="yak"), probe(2, label="gnu"), probe(3)), LABELS)
    assert "--labels" in refused.value.hint


def test_tiny_images_are_a_warning():
    told = check_probes(probe_set(probe(1, side=8), probe(2)), LABELS)
    assert "32 px" in told["warnings"][0]
