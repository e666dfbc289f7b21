"""Puts what a command printed between two marks of docs/guarantee.md, so that no figure there is typed."""

from pathlib import Path
from typing import Final

GUARANTEE: Final = Path(__file__).resolve().parent.parent.parent / "docs" / "guarantee.md"


def write_between(name: str, text: str, *, file: Path = GUARANTEE) -> None:
    """Replace what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`. Raises ValueError without them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = file.read_text("utf-8")
    before, found, rest = content.partition(begin)
    _, found_too, after = rest.partition(end)
    if not found or not found_too:
        raise ValueError(f"{file.name} has no marks {begin} and {end}")
    file.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", "utf-8")
