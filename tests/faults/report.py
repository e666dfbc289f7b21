"""Generated tables, and the place in a document where they go."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.faults.history import NS_PER_MS
from tests.faults.run import Result
from tests.faults.schedules import Fault
from tools.processes import ROOT

GUARANTEE: Final = ROOT / "docs" / "guarantee.md"


def by_kind(results: Mapping[Fault, Result], parameters: Sequence[str]) -> str:
    """One row for each kind of fault."""
    lines = [
        ", ".join(parameters) + ".",
        "",
        "| fault | schedules | revocations | worst delay seen, ms | violations | valid sessions answered |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    total = Result()
    for fault, result in results.items():
        total.add(result)
        lines.append(_row(fault, result))
    lines.append(_row("all", total))
    return "\n".join(lines)


def _row(name: str, result: Result) -> str:
    report = result.report
    return (
        f"| {name} | {result.schedules} | {report.revocations:,} | {report.worst_delay_ns / NS_PER_MS:.0f} "
        f"| {len(report.violations)} | {report.availability:.2%} |"
    )


def write(file: Path, name: str, text: str) -> None:
    """Put text between the document's markers of this name. Raises `SystemExit` when it has none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = file.read_text() if file.exists() else ""
    before, found, rest = content.partition(begin)
    _, found_too, after = rest.partition(end)
    if not found or not found_too:
        sys.exit(f"{file.relative_to(ROOT)} has no {begin} … {end}")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}")
