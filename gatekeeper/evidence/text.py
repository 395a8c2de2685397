"""How are strings from outside (labels, file names, tensors' names) shown without harm?"""

import re
import unicodedata

ELLIPSIS = "…"

# Not text in XML 1.0: most C0 controls, surrogates, two non-characters.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, format, surrogates, separators


def printable(text: str, *, at_most: int = 500) -> str:
    r"""Return `text` on one line with every invisible or controlling character spelled out.

    A terminal obeys escape sequences, and direction overrides make a name read as another one:
    both become `\x1b`, `\u202e`. Line breaks become blanks. At most `at_most` characters.
    """
    line = " ".join(text.split("\n")).replace("\r", " ").replace("\t", " ")
    shown = "".join(_spelled(char) for char in line)
    return shown if len(shown) <= at_most else shown[: at_most - 1] + ELLIPSIS


def xml_text(text: str) -> str:
    """Return `text` without characters that XML 1.0 cannot hold; escaping is the writer's."""
    return _NOT_XML.sub("\ufffd", text)


def _spelled(char: str) -> str:
    if char == " " or unicodedata.category(char) not in _HIDDEN:
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
