"""The embedded set: enough distinct squares, the same under every run."""

import itertools
import subprocess
import sys

import pytest

from gatekeeper.errors import ProbeError
from gatekeeper.probes import embedded


def test_there_are_at_least_64_distinct_squares_named_by_their_source():
    probes = embedded.embedded_probes()
    assert probes.embedded
    assert len(probes) >= 64
    assert len({p.array.tobytes() for p in probes.probes}) == len(probes)
    assert {p.array.shape for p in probes.probes} == {(256, 256, 3)}
    assert {p.file.split("/")[0] for p in probes.probes} == {"skimage", "sklearn", "matplotlib"}


def test_neighbours_come_from_different_photos():
    photos = [p.file.split("-")[0] for p in embedded.embedded_probes().probes]
    assert all(one != other for one, other in itertools.pairwise(photos))


def test_the_digest_is_the_same_in_another_process():
    code = "from gatekeeper.probes.embedded import embedded_probes as e; print(e().digest)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == embedded.embedded_probes().digest


def test_too_few_photos_are_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(embedded, "_SOURCES", embedded._SOURCES[:3])
    with pytest.raises(ProbeError, match=r"64 are needed") as caught:
        embedded.embedded_probes.__wrapped__()
    assert "--probes" in caught.value.hint


def test_default_labels_are_unique_names():
    labels = embedded.default_labels()
    assert len(labels.labels) == len(set(labels.labels)) > 900
    assert all(template.count("{}") == 1 for template in labels.templates)
