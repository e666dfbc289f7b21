"""The document that takes what commands print: no figure in it is typed."""

import sys
from pathlib import Path
from typing import Final

from tools.processes import ROOT

GUARANTEE: Final = ROOT / "docs" / "guarantee.md"


def write(file: Path, name: str, text: str) -> None:
    """Put text between the document's markers of this name. Raises `SystemExit` when it has none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = file.read_text("utf-8") if file.exists() else ""
    before, found, rest = content.partition(begin)
    _, found_too, after = rest.partition(end)
    if not found or not found_too:
        sys.exit(f"{file.name} has no {begin} … {end}")
    file.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", "utf-8")
