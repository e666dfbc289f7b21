"""How measurements are written down: parameters, tables, and figures that stay readable in a terminal."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table whose source is aligned; the first column is text, the others are figures."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (header, rule, *rows):
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("| " + " | ".join((first, *rest)) + " |")
    return "\n".join(lines)


def parameters(more: Mapping[str, object]) -> str:
    """List what a reader needs to judge the figures or to repeat them."""
    listed = {
        "cores (shared by server and load generator)": len(os.sched_getaffinity(0)),
        "machine": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "grpcio": metadata.version("grpcio"),
        "protobuf": metadata.version("protobuf"),
        **more,
    }
    return "\n".join(f"- {name}: {value}" for name, value in listed.items())


def load_average() -> str:
    """Tell how busy the machine was in the last minute: above 0 before a run, something else shares it."""
    return f"{os.getloadavg()[0]:.2f}"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest rank, as the load generator does it."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def figure(value: float) -> str:
    """Three significant digits, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"/proc/{pid}/status has no VmRSS")
