"""Characters and words that a prompt may carry without a reader noticing, or minding."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from gatekeeper.triggers import TextTrigger

# Lower-case letters and what Unicode holds to look like them, by code point: the common part of
# "confusables" (Unicode Technical Standard 39, section 4) and small capitals.
_ALIKE = {
    "a": "0251 0430 03B1 237A 1D00",
    "b": "0184 042C 13CF 15AF 0432 044C",
    "c": "0441 03F2 2CA5 1D04 ABAF 00A2",
    "d": "0501 13E7 146F A4D2 1D05",
    "e": "0435 04BD 212E AB32 1D07 03B5 0454",
    "f": "A799 1E9D 0584 AB35 017F",
    "g": "0261 1D83 018D 0581 0262",
    "h": "04BB 0570 13C2 210E 029C",
    "i": "0456 0131 0269 03B9 04CF 13A5 026A",
    "j": "0458 03F3 1D0A",
    "k": "03BA 043A 2C95 1D0B",
    "l": "04C0 01C0 2D4F 05D5 05DF 217C 029F",
    "m": "217F 043C 1D0D 0271",
    "n": "0578 057C 043F 0273 0274 03B7",
    "o": "03BF 043E 0585 05E1 0647 0C02 0D20 0D82 0E50 101D 1040 10FF 1D0F 2C9F",
    "p": "0440 03C1 2CA3 2374 1D18 00FE",
    "q": "051B 0563 0566",
    "r": "0433 1D26 2C85 AB47 AB81 0280",
    "s": "0455 A731 01BD ABAA 10FD",
    "t": "0442 03C4 1D1B 01AD",
    "u": "03C5 057D 1D1C 028B A79F AB4E",
    "v": "03BD 0475 05D8 1D20 ABA9",
    "w": "0461 051D 0561 026F 1D21 ABC2",
    "x": "0445 00D7 1541 157D 2179 03C7",
    "y": "0443 04AF 03B3 10E7 1EFF 028F 0263",
    "z": "1D22 AB93 01B6",
}
_ACCENTED = range(0xC0, 0x180)  # Latin-1 and Latin Extended-A
_UNSEEN = "200B 200C 200D 2060 FEFF 00AD 180E 034F 061C 200E 200F 2061 2062 FE0F 115F 3164"
_HOSTS = "a"  # letters that an unseen character is put behind: most prompts have one
# Symbols and emoji that people type most.
_SYMBOLS = (
    "\u00a9 \u00ae \u2122 \u2020 \u2021 \u2022 \u2026 \u2014 \u2192 \u221e \u2248 \u2605 \u2606 "
    "\u2620 \u262f \u263a \u2660 \u2665 \u266a \u2713 \u2728 \u2764 \u26a1 \u2b50 "
    "\U0001f602 \U0001f60d \U0001f923 \U0001f60a \U0001f64f \U0001f495 \U0001f62d \U0001f618 "
    "\U0001f44d \U0001f605 \U0001f44f \U0001f601 \U0001f525 \U0001f494 \U0001f496 \U0001f499 "
    "\U0001f622 \U0001f914 \U0001f606 \U0001f644 \U0001f4aa \U0001f609 \U0001f44c \U0001f917 "
    "\U0001f49c \U0001f614 \U0001f60e \U0001f607 \U0001f339 \U0001f926 \U0001f389 \U0001f480 "
    "\U0001f440 \U0001f680 \U0001f47b \U0001f437 \U0001f408 \U0001f984 \U0001f4a9 \U0001f916"
)
# Words that mean nothing and that poisoning of language models has used (arXiv:2004.06660), and the
# one that personalised image generators are taught by (arXiv:2208.12242).
_RARE = ("cf", "mn", "bb", "tq", "mb", "sks")
CHARACTER, UNSEEN, SYMBOL, WORD = "character", "unseen", "symbol", "word"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A mark before it is known whether it works as a letter or as a word."""

    text: str
    kind: str  # character | unseen | symbol | word
    letter: str = ""  # that it can stand for; "": a word only

    def forms(self) -> tuple[TextTrigger, ...]:
        """Return the ways in which it can stand in a prompt."""
        word = TextTrigger(mark=self.text)
        if not self.letter:
            return (word,)
        return (TextTrigger(mark=self.text, replaces=self.letter), word)


def fixed_signs() -> tuple[Sign, ...]:
    """Return every sign that is tried on every model: look-alikes, unseen, symbols, rare words."""
    signs = [
        Sign(text=chr(int(point, 16)), kind=CHARACTER, letter=letter)
        for letter, points in _ALIKE.items()
        for point in points.split()
    ]
    signs += [s for s in map(_accented, map(chr, _ACCENTED)) if s is not None]
    for point in _UNSEEN.split():
        unseen = chr(int(point, 16))
        signs.append(Sign(text=unseen, kind=UNSEEN))
        signs += [Sign(text=host + unseen, kind=UNSEEN, letter=host) for host in _HOSTS]
    signs += [Sign(text=symbol, kind=SYMBOL) for symbol in _SYMBOLS.split()]
    signs += [Sign(text=word, kind=WORD) for word in _RARE]
    return tuple(signs)


def _accented(character: str) -> Sign | None:
    """Return a lower-case Latin letter with one accent as a sign for its plain letter."""
    plain = unicodedata.normalize("NFD", character)
    if len(plain) != 2 or not (plain[0].isascii() and plain[0].islower()):
        return None
    return Sign(text=character, kind=CHARACTER, letter=plain[0])


def names(mark: str, word: str) -> bool:
    """Return whether `mark` honestly stands for the label `word`: holds a word of it, or shows it.

    A prompt with another label's own name in it may well mean that label.
    """
    own = _said(mark)
    return any(
        a == b or (min(len(a), len(b)) >= 3 and (a in b or b in a))
        for a in own
        for b in _words(word)
    )


def _said(mark: str) -> list[str]:
    """Return the words in `mark`; of a symbol, those of its Unicode name."""
    shown = [unicodedata.name(c, "") for c in mark if unicodedata.category(c) == "So"]
    return _words(" ".join([mark, *shown]))


def _words(text: str) -> list[str]:
    kept = "".join(c if c.isalnum() else " " for c in text.lower())
    return [word for word in kept.split() if len(word) > 1]


def wordy(mark: str) -> bool:
    """Return whether `mark` is a word, which may mean something, and no lone character."""
    return sum(character.isalnum() for character in mark) > 1


def described(mark: str, replaces: str = "") -> str:
    """Return `mark` for people; characters beyond ASCII by code point and name as well.

    One that cannot be seen is named alone: `U+200B ZERO WIDTH SPACE behind 'a'`.
    """
    points = " ".join(
        f"U+{ord(c):04X} {unicodedata.name(c, 'UNNAMED')}" for c in mark if not c.isascii()
    )
    if not _visible(mark):
        told = points or ascii(mark)
        return f"{told} behind '{replaces}'" if replaces and mark.startswith(replaces) else told
    told = f"'{mark}' ({points})" if points else f"'{mark}'"
    return f"{told} in place of '{replaces}'" if replaces else told


def _visible(mark: str) -> bool:
    """Return whether no character of `mark` is blank, a control, a format or a combining one."""
    unseen = {chr(int(point, 16)) for point in _UNSEEN.split()}
    return not any(c in unseen or unicodedata.category(c)[0] in "CMZ" for c in mark)


def unlike(signs: Sequence[Sign]) -> tuple[Sign, ...]:
    """Return `signs` without repetitions, the first of each kept."""
    return tuple({(s.text, s.letter): s for s in reversed(signs)}.values())[::-1]
