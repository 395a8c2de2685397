"""The cache answers what it was told, or nothing."""

import logging
import os

import numpy as np
import pytest

from gatekeeper.oracle.cache import OracleCache, decode_mask, encode_mask, image_digest


@pytest.mark.parametrize("seed", range(5))
def test_masks_survive_run_length_encoding(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 40), rng.integers(1, 40))) < rng.random()
    assert (decode_mask(encode_mask(mask), *mask.shape) == mask).all()


@pytest.mark.parametrize("value", [True, False])
def test_full_and_empty_masks_survive(value):
    mask = np.full((3, 4), value)
    assert (decode_mask(encode_mask(mask), 3, 4) == mask).all()


def test_runs_that_do_not_add_up_are_an_error():
    with pytest.raises(ValueError, match="add up"):
        decode_mask(np.array([3, 4], dtype=np.uint32), 3, 3)


def test_a_new_cache_on_the_same_folder_knows_the_answer(tmp_path):
    OracleCache(tmp_path).put({"a": np.arange(5)}, "k", "1")
    assert (OracleCache(tmp_path).get("k", "1")["a"] == np.arange(5)).all()
    assert OracleCache(tmp_path).get("k", "2") is None
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "swap"])
def test_a_damaged_file_counts_as_absent(tmp_path, damage, caplog):
    cache = OracleCache(tmp_path)
    cache.put({"a": np.arange(500)}, "k")
    (file,) = tmp_path.rglob("*.npz")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-40] ^= 1
    elif damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    else:  # a good file under another's name
        cache.put({"a": np.zeros(3)}, "other")
        other = next(p for p in tmp_path.rglob("*.npz") if p != file)
        content = bytearray(other.read_bytes())
    file.write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING):
        assert OracleCache(tmp_path).get("k") is None
    assert "damaged" in caplog.text


def test_the_oldest_go_when_it_grows_too_large(tmp_path):
    cache = OracleCache(tmp_path, limit_bytes=3000)
    for i in range(6):
        cache.put({"a": np.random.default_rng(i).integers(0, 255, 800, dtype=np.uint8)}, str(i))
        (file,) = [p for p in tmp_path.rglob("*.npz") if p.stat().st_mtime > 1_000_000]
        os.utime(file, (i, i))
    cache.shrink()
    left = [i for i in range(6) if OracleCache(tmp_path).get(str(i)) is not None]
    assert left
    assert left == list(range(6 - len(left), 6))
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.npz")) <= 3000


def test_a_folder_that_cannot_be_written_costs_the_cache_not_the_scan(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = OracleCache(blocked)
    with caplog.at_level(logging.WARNING):
        cache.put({"a": np.arange(2)}, "k")
    assert "cannot be written" in caplog.text
    assert (cache.get("k")["a"] == np.arange(2)).all()


def test_the_shape_is_part_of_an_images_digest():
    flat = np.zeros((2, 8, 3), dtype=np.uint8)
    assert image_digest(flat) != image_digest(flat.reshape(4, 4, 3))
