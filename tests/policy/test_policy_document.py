"""A policy file is plain YAML or it is refused, with the line."""

import itertools

import pytest

from gatekeeper.errors import PolicySyntaxError
from gatekeeper.policy.document import MAX_BYTES, parse_document, read_document


def test_values_and_lines_come_back():
    document = parse_document("name: x\nrules:\n  - id: a\n    value: 0.5\n")
    assert document.value == {"name": "x", "rules": [{"id": "a", "value": 0.5}]}
    assert document.line(("rules", 0, "value")) == 4
    assert document.line(("rules", 0, "nowhere")) == 3


def test_json_is_accepted():
    assert parse_document('{"name": "x", "n": [1, true, null]}').value == {
        "name": "x",
        "n": [1, True, None],
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &x [1]\nb: *x\n", "anchor"),
        ("b: *x\n", "alias"),
        ("a: !!python/object/apply:os.system ['true']\n", "tag"),
        ("a: !!binary aGk=\n", "tag"),
        ("a: 1\na: 2\n", "twice"),
        ("a: .inf\n", "finite"),
        ("a: .nan\n", "finite"),
        ("a: 2026-01-01\n", "quotes"),
        ("? [1, 2]\n: 3\n", "one word"),
        ("a: [1\n", "line"),
        ("a: 1\n--- \nb: 2\n", "line"),
        ("[" * 40 + "]" * 40, "deep"),
        ("[" * 100_000, "deep"),
        ("\x00", "line"),
    ],
)
def test_anything_beyond_plain_yaml_is_refused_with_its_line(text, problem):
    with pytest.raises(PolicySyntaxError, match="line") as refused:
        parse_document(text, origin="p.yaml")
    assert problem in str(refused.value)
    assert "p.yaml" in refused.value.message
    assert refused.value.hint


def test_alias_bomb_is_refused_at_once():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    names = "abcdefghi"
    for before, after in itertools.pairwise(names):
        bomb += f"{after}: &{after} [{', '.join(['*' + before] * 9)}]\n"
    with pytest.raises(PolicySyntaxError, match="anchor"):
        parse_document(bomb)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(PolicySyntaxError, match="cannot be read"):
        read_document(tmp_path / "absent.yaml")
    with pytest.raises(PolicySyntaxError, match="cannot be read"):
        read_document(tmp_path)
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(PolicySyntaxError, match="larger"):
        read_document(tmp_path / "large.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(PolicySyntaxError, match="UTF-8"):
        read_document(tmp_path / "latin.yaml")
