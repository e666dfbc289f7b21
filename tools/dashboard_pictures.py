"""Draw each panel of the dashboards as a real Prometheus answers its queries: `make dashboard-pictures`.

Starts both programs with all that they can have, lets an app work with them, and lets things go wrong: a storm of
logins, Redis gone, Flowless gone. Needs Debian's package `prometheus`, and some two minutes. The pictures are SVG:
text that anybody can read and compare.

With `--check` the run is short, nothing is written, and only panels without data are named: `make prometheus-check`.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from tests.support.busy_pair import Watched, watched_run
from tests.support.prometheus import PROGRAM
from tools.dashboards import DASHBOARDS, Dashboard, Panel
from tools.processes import ROOT, exit_on_sigterm, temporary_directory

DIRECTORY: Final = ROOT / "docs" / "operations" / "dashboards"
PAGE: Final = ROOT / "docs" / "operations" / "dashboards.md"
_QUIET_SECONDS: Final = 20.0
_FAULT_SECONDS: Final = 10.0
_GAP_SECONDS: Final = 2.5
_WIDTH, _LEFT, _TOP, _INNER = 760, 64, 46, 180
_COLORS: Final = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"),
    *("#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#393b79", "#637939"),
)

Points = Sequence[tuple[float, float]]


def shown(value: float, unit: str) -> str:
    """Write a number with its unit, as short as Grafana does."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB" if value >= 2**20 else f"{value / 2**10:.3g} KiB"
    if unit == "s":
        if value >= 120:
            return f"{value / 3_600:.3g} h" if value >= 7_200 else f"{value / 60:.3g} min"
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"
    suffix = {"reqps": "/s", "ops": "/s"}.get(unit, "")
    return f"{value:,.0f}{suffix}" if value >= 1000 else f"{value:.3g}{suffix}"


def _nice(highest: float, unit: str) -> float:
    """Round up to a number that people like at the end of an axis."""
    if highest <= 0:
        return 1.0
    if unit == "bytes" and highest >= 2**10:
        whole = 2**20 if highest >= 2**20 else 2**10
        return whole * _nice(highest / whole, "")
    if unit == "s" and highest >= 120:
        return 60 * _nice(highest / 60, "")
    power: float = 10 ** (len(f"{int(highest)}") - 1) if highest >= 1 else 1.0
    while power > highest:
        power /= 10
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= highest)


def picture(panel: Panel, series: Mapping[str, Points], watched: Watched, *, end: float) -> str:
    """Draw a panel."""
    peaks = {name: max(value for _, value in points) for name, points in series.items()}
    drawn = {name: series[name] for name in sorted(peaks, key=lambda name: (-peaks[name], name))[: len(_COLORS)]}
    lines = [f"{name}  at most {shown(peaks[name], panel.unit)}".strip() for name in drawn]
    columns = 2 if max(map(len, lines), default=0) > 36 else 3
    height = _TOP + _INNER + 40 + 16 * (-(-len(lines) // columns))
    highest = panel.whole or _nice(max(peaks.values(), default=1.0), panel.unit)
    across = (_WIDTH - _LEFT - 20) / (end - watched.began)

    def place(at: float, value: float) -> str:
        return f"{_LEFT + (at - watched.began) * across:.1f},{_TOP + _INNER * (1 - min(value / highest, 1)):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="20" font-size="15" font-weight="bold">{escape(panel.title)}</text>',
        f'<text x="12" y="37" font-size="11" fill="#555">{escape(panel.text)}</text>',
    ]
    for fifth in range(6):
        y = _TOP + _INNER * (1 - fifth / 5)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - 20}" stroke="#e4e4e4"/>')
        label = shown(highest * fifth / 5, panel.unit)
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" font-size="10" text-anchor="end">{label}</text>')
    parts += _marks(watched, across)
    for color, points in zip(_COLORS, drawn.values(), strict=False):
        for stretch in _stretches(points):
            path = " ".join(place(at, value) for at, value in stretch)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
    for index, (color, line) in enumerate(zip(_COLORS, lines, strict=False)):
        x, y = 12 + (_WIDTH - 16) // columns * (index % columns), _TOP + _INNER + 34 + 16 * (index // columns)
        parts.append(f'<rect x="{x}" y="{y - 8}" width="10" height="10" fill="{color}"/>')
        parts.append(f'<text x="{x + 15}" y="{y + 1}" font-size="11">{escape(line)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _stretches(points: Points) -> Iterator[Points]:
    """Cut where there was nothing to see for a while: no line was there."""
    begin = 0
    for index in range(1, len(points) + 1):
        if index == len(points) or points[index][0] - points[index - 1][0] > _GAP_SECONDS:
            yield points[begin:index]
            begin = index


def _marks(watched: Watched, across: float) -> Iterator[str]:
    """Say below the axis when what went wrong."""
    for (at, what), (until, _) in zip(watched.marks[::2], watched.marks[1::2], strict=True):
        x, width = _LEFT + (at - watched.began) * across, (until - at) * across
        yield f'<rect x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{_INNER}" fill="#f3c6c6" opacity="0.45"/>'
        middle = x + width / 2
        yield f'<text x="{middle:.1f}" y="{_TOP + _INNER + 14}" font-size="10" text-anchor="middle">{what}</text>'


def _name(dashboard: Dashboard, number: int, panel: Panel) -> str:
    words = "".join(letter if letter.isalnum() else "-" for letter in panel.title.lower())
    return f"{dashboard.file.stem}-{number:02d}-{'-'.join(filter(None, words.split('-')))}.svg"


def page() -> str:
    """Write the document that shows all pictures."""
    lines = [
        "# Dashboards",
        "",
        "`deploy/grafana/*.json` are dashboards for Grafana; import them and choose a Prometheus. They are made by",
        "`make dashboards` from `tools/dashboards.py`. Below, each panel as it looked in a run of",
        "`make dashboard-pictures`: both programs, a real Prometheus that asks each second, an app at work, three",
        "things that go wrong. On a machine that does all of this at once, times say little about yours.",
    ]
    for dashboard in DASHBOARDS:
        lines += ["", f"## {dashboard.title}"]
        number = 0
        for row, panels in dashboard.rows.items():
            lines += ["", f"### {row}"]
            for panel in panels:
                number += 1
                lines += ["", f"![{panel.title}](dashboards/{_name(dashboard, number, panel)})"]
    return "\n".join(lines) + "\n"


def _write(watched: Watched, *, end: float) -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for old in DIRECTORY.glob("*.svg"):
        old.unlink()
    for dashboard in DASHBOARDS:
        for number, panel in enumerate(dashboard.panels, start=1):
            drawing = picture(panel, watched.of(panel, end=end, step=1.0), watched, end=end)
            (DIRECTORY / _name(dashboard, number, panel)).write_text(drawing)
    PAGE.write_text(page())
    print(f"pictures are in {DIRECTORY.relative_to(ROOT)}")


def main(arguments: Sequence[str]) -> int:
    """Run, draw, write; name the panels that showed nothing."""
    if PROGRAM is None:
        print("needs Debian's package prometheus", file=sys.stderr)
        return 1
    exit_on_sigterm()
    checking = "--check" in arguments
    quiet, fault = (5.0, 3.0) if checking else (_QUIET_SECONDS, _FAULT_SECONDS)
    with (
        temporary_directory() as directory,
        watched_run(directory, quiet_seconds=quiet, fault_seconds=fault) as watched,
    ):
        end = time.time()
        panels = [panel for dashboard in DASHBOARDS for panel in dashboard.panels]
        empty = [panel.title for panel in panels if not watched.of(panel, end=end, step=1.0)]
        if not checking:
            _write(watched, end=end)
    for title in empty:
        print(f"nothing to show: {title}", file=sys.stderr)
    if checking and not empty:
        print(f"{len(panels)} panels have data")
    return int(bool(empty))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
