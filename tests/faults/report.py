"""Generated tables."""

from collections.abc import Mapping, Sequence

from tests.faults.history import NS_PER_MS
from tests.faults.run import Result
from tests.faults.schedules import Fault


def by_kind(results: Mapping[Fault, Result], parameters: Sequence[str]) -> str:
    """One row for each kind of fault."""
    lines = [
        ", ".join(parameters) + ".",
        "",
        "| fault | schedules | revocations | with a reached barrier | worst delay seen, ms | violations "
        "| valid sessions answered |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    total = Result()
    for fault, result in results.items():
        total.add(result)
        lines.append(_row(fault, result))
    lines.append(_row("all", total))
    return "\n".join(lines)


def _row(name: str, result: Result) -> str:
    report = result.report
    worst_ms = f"{report.worst_delay_ns / NS_PER_MS:.0f}"
    return (
        f"| {name} | {result.schedules} | {report.revocations:,} | {report.barriers:,} | {worst_ms} "
        f"| {len(report.violations)} | {report.availability:.2%} |"
    )
