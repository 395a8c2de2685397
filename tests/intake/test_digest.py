"""One definition of which bytes a model is."""

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.errors import IntakeError
from gatekeeper.intake.digest import digest_of, tree_digest
from gatekeeper.types import ModelFile


def test_definition_is_the_documented_one(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.bin").write_bytes(b"hello")
    (tmp_path / "é.txt").write_bytes(b"")
    total = hashlib.sha256(b"gatekeeper.tree/1\n")
    for name, content in (("b/x.bin", b"hello"), ("é.txt", b"")):
        raw = name.encode()
        total.update(len(raw).to_bytes(8, "big") + raw + len(content).to_bytes(8, "big"))
        total.update(hashlib.sha256(content).digest())
    digest, files = tree_digest(tmp_path)
    assert digest == f"sha256:{total.hexdigest()}"
    assert [f.path for f in files] == ["b/x.bin", "é.txt"]
    assert files[0].size_bytes == 5


def test_name_content_and_place_each_change_it(tmp_path):
    def digest(name: str, content: bytes) -> str:
        folder = tmp_path / hashlib.sha256(name.encode() + content).hexdigest()
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return tree_digest(folder)[0]

    seen = {digest("a", b"1"), digest("b", b"1"), digest("a", b"2"), digest("a/b", b"1")}
    assert len(seen) == 4


def test_single_file_is_a_tree_of_one(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w.pt").write_bytes(b"1")
    assert tree_digest(tmp_path / "m")[0] == tree_digest(tmp_path / "m" / "w.pt")[0]


def test_modes_and_times_do_not_matter(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"1")
    before = tree_digest(tmp_path)[0]
    path.chmod(0o600)
    os.utime(path, (0, 0))
    assert tree_digest(tmp_path)[0] == before


def test_link_inside_counts_as_its_file_and_link_outside_is_refused(tmp_path):
    root = tmp_path / "m"
    root.mkdir()
    (root / "a").write_bytes(b"1")
    (root / "b").symlink_to("a")
    _, files = tree_digest(root)
    assert files[0].sha256 == files[1].sha256
    (tmp_path / "secret").write_bytes(b"2")
    (root / "c").symlink_to("../secret")
    with pytest.raises(IntakeError, match="out of the model"):
        tree_digest(root)


@pytest.mark.parametrize("kind", ["missing", "empty", "dangling", "pipe", "link to folder"])
def test_what_is_no_tree_of_files_is_bad_input(kind, tmp_path):
    root = tmp_path / "m"
    if kind != "missing":
        root.mkdir()
    if kind == "dangling":
        (root / "a").symlink_to("nothing")
    if kind == "pipe":
        os.mkfifo(root / "a")
    if kind == "link to folder":
        (root / "d").mkdir()
        (root / "d" / "x").write_bytes(b"1")
        (root / "a").symlink_to("d")
    with pytest.raises(IntakeError) as error:
        tree_digest(root)
    assert error.value.hint
    assert error.value.exit_code == 2


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.integers(0, 9)), min_size=2))
def test_order_does_not_matter_and_names_never_run_together(pairs):
    pairs = [(n, s) for n, s in pairs if n.isprintable()]
    files = [ModelFile(path=n, size_bytes=s, sha256="00" * 32) for n, s in dict(pairs).items()]
    assert digest_of(tuple(files)) == digest_of(tuple(reversed(files)))
    if len(files) > 1:
        joined = ModelFile(
            path=files[0].path + files[1].path, size_bytes=files[0].size_bytes, sha256="00" * 32
        )
        assert digest_of((joined, *files[2:])) != digest_of(tuple(files))
