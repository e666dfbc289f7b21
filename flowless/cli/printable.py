"""Text of strangers on a terminal: what steers it is shown, never obeyed."""

import unicodedata
from typing import Final

_STEERING: Final = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))
_JOINERS: Final = frozenset("\u200c\u200d")
"""Between letters of many scripts, and harmless."""


def printable(text: str) -> str:
    """Escape what moves the cursor, colours, reverses the order of letters or breaks the line."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _STEERING:
        return character
    return character.encode("unicode_escape").decode("ascii")
