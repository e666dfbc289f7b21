"""Aligned tables for people; colour only on a terminal that wants it."""

import os
import sys
from collections.abc import Sequence
from typing import TextIO

GREEN = "32"
RED = "31"
BOLD = "1"
DIM = "2"


def paint(text: str, style: str, *, stream: TextIO | None = None) -> str:
    """Return the text in the style on a terminal (unless NO_COLOR is set), and as it is elsewhere."""
    stream = stream or sys.stdout
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{style}m{text}\x1b[0m"


class Table:
    """Rows that are printed as they come, in columns of fixed width; the last column is aligned to the right."""

    def __init__(self, *, titles: Sequence[str], widths: Sequence[int]) -> None:
        self._widths = tuple(widths)
        print(paint(self._line(titles), BOLD))
        print("  ".join("─" * width for width in self._widths), flush=True)

    def row(self, *cells: str, style: str = "") -> None:
        """Print one row."""
        line = self._line(cells)
        print(paint(line, style) if style else line, flush=True)

    def _line(self, cells: Sequence[str]) -> str:
        *left, right = [f"{cell:<{width}}" for cell, width in zip(cells, self._widths, strict=True)]
        return "  ".join([*left, f"{right.strip():>{self._widths[-1]}}"]).rstrip()
