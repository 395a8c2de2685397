"""No string from outside reaches a terminal, an XML reader or a line of a log unescaped."""

import unicodedata
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.evidence.text import printable, xml_text

anything = st.text(st.characters())


@given(anything)
def test_printable_text_is_one_line_without_controls(text):
    shown = printable(text)
    assert len(shown) <= 500
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)
    shown.encode("utf-8")


@given(st.text(st.characters(categories=("L", "N", "P", "S")), max_size=100))
def test_ordinary_text_stays_as_it_is(text):
    assert printable(text) == text


def test_escape_sequences_and_direction_overrides_are_spelled_out():
    assert printable("\x1b[31mred") == r"\x1b[31mred"
    assert printable("\u202ecod.exe") == r"\u202ecod.exe"
    assert printable("a\nb\tc") == "a b c"
    assert printable("\x9b2J") == r"\x9b2J"


@given(anything)
def test_xml_text_is_always_well_formed(text):
    element = ElementTree.Element("a", t=xml_text(printable(text)))
    element.text = xml_text(text)
    ElementTree.fromstring(ElementTree.tostring(element, encoding="utf-8"))
