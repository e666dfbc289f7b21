"""How a view looks on a terminal of some size. Names of strangers come in escaped, and stay text."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flowless.cli.printable import printable
from flowless.cli.top_figures import Rates, SidecarRow, View, in_words, silent
from flowless.cli.top_json import REASONS
from flowless.domain.replicas import ReplicaRecord

_MAX_REPLICAS: Final = 8
_MAX_WARNINGS: Final = 6
_LEAST_NAME: Final = 16
_WANTED_NAME: Final = 24
_MOST_NAME: Final = 60
_ANSWERS: Final = attrgetter("answers")
_DENIALS: Final = attrgetter("denials")
_UNAVAILABLE: Final = attrgetter("unavailable")
_STATES: Final[Mapping[str, str]] = {"none": "bold red", "gone": "yellow", "?": "yellow", "left": "dim"}
"""States of a lease that catch the eye, the worst first."""


class Sort(StrEnum):
    """What comes first."""

    TROUBLE = "trouble"
    NAME = "name"
    LAG = "lag"
    ANSWERS = "answers"
    HITS = "hits"
    DENIALS = "denials"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One column of sidecars. `keep`: the higher, the longer it stays when there is little room."""

    title: str
    width: int
    keep: int
    text: Callable[[SidecarRow], str]


def ordered(rows: Iterable[SidecarRow], sort: Sort) -> list[SidecarRow]:
    """Rows in the order asked for, and by name among equals. Rates count since start where there is no newer one."""
    return sorted(rows, key=lambda row: (_rank(row, sort), row.name))


def _rank(row: SidecarRow, sort: Sort) -> tuple[float, ...]:
    rates = row.rates or row.since_start
    if sort is Sort.TROUBLE:
        state = list(_STATES).index(row.lease) if row.lease in _STATES else len(_STATES)
        return state, -_per_second(row.rates, _UNAVAILABLE), -row.lag
    if sort is Sort.LAG:
        return (-row.lag,)
    if sort is Sort.HITS:  # the fewest first
        return (2.0 if rates is None or rates.hit_ratio is None else rates.hit_ratio,)
    counted = {Sort.ANSWERS: _ANSWERS, Sort.DENIALS: _DENIALS, Sort.UNAVAILABLE: _UNAVAILABLE}.get(sort)
    return () if counted is None else (-_per_second(rates, counted),)


def _per_second(rates: Rates | None, count: Callable[[Rates], int]) -> float:
    return 0.0 if rates is None or not rates.seconds else count(rates) / rates.seconds


def screen(
    view: View, rows: Sequence[SidecarRow], *, width: int, height: int | None = None, note: str = ""
) -> RenderableType:
    """Lay a view out with these of its sidecars, as many as fit.

    `height` in lines, `None` without end; `note` stands at the right of the first line if there is room.
    """
    warnings = list(view.warnings)
    replicas = list(view.look.replicas)
    shown = replicas
    if height is not None:
        warnings = _few(warnings, _MAX_WARNINGS, "warnings")
        shown = replicas[:_MAX_REPLICAS]
    above: list[RenderableType] = [
        _title(view, note, width),
        *(_line(f"! {warning}", "bold red") for warning in warnings),
        _line(""),
        *([_replicas(shown, view.look.revision, width)] if shown else []),
        *_more(len(replicas) - len(shown), "replica"),
        _line(""),
    ]
    below = [_line(""), *_totals(view.sidecars)]
    if height is not None:
        # A table counts as one part, but has a line for each replica beside its head; the sidecars' head, and who is
        # left out, take two more.
        room = height - len(above) - len(shown) - len(below) - 2
        rows = rows[: max(1, room)]
    hidden = len(view.sidecars) - len(rows)
    return Group(*above, _sidecars(rows, replicas, width), *_more(hidden, "sidecar"), *below)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _more(count: int, what: str) -> list[Text]:
    return [_line(f"and {_count(count, f'more {what}')}", "dim")] if count > 0 else []


def _few(texts: Sequence[str], most: int, what: str) -> list[str]:
    left = len(texts) - most
    return [*texts[:most], *([f"and {left} more {what}"] if left > 0 else [])]


def _title(view: View, note: str, width: int) -> Text:
    look = view.look
    text = (
        f"flowless top  {look.at:%H:%M:%SZ}  log at revision {look.revision}, "
        f"{_count(len(look.replicas), 'replica')}, {_count(len(view.sidecars), 'sidecar')}"
    )
    room = width - len(text) - 2
    return _line(text + "  " + note.rjust(room) if note and len(note) <= room else text, "bold")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _table(columns: Iterable[tuple[str, int]], first: str, first_width: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False, header_style="bold")
    table.add_column(first, width=first_width, no_wrap=True)
    for title, width in columns:
        table.add_column(title, width=width, justify="right", no_wrap=True)
    return table


_REPLICA_COLUMNS: Final = (("REPORTED", 13), ("SIDECARS", 8), ("BEHIND", 7), ("REVISION", 10))
"""What matters most comes first, and stays where there is little room."""


def _replicas(records: Sequence[ReplicaRecord], end: int, width: int) -> RenderableType:
    names = [f"{number} {printable(record.report.name)}" for number, record in enumerate(records, 1)]
    columns = list(_REPLICA_COLUMNS)
    while columns and sum(room + 1 for _, room in columns) + _LEAST_NAME > width:
        columns.pop()
    first = _first_width(names, width, [room for _, room in columns])
    table = _table(columns, "REPLICA", first)
    for name, record in zip(names, records, strict=True):
        report = record.report
        ago = "-" if record.reported_ago is None else f"{in_words(record.reported_ago)} ago"
        cells = {
            "REPORTED": ago,
            "SIDECARS": str(report.watching),
            "BEHIND": str(max(0, end - report.revision)),
            "REVISION": str(report.revision),
        }
        texts = [Text(cells[title]) for title, _ in columns]
        table.add_row(Text(shortened(name, first)), *texts, style="bold red" if silent(record) else "")
    return table


def _first_width(names: Sequence[str], width: int, others: Sequence[int]) -> int:
    room = max(_LEAST_NAME, width - sum(others) - len(others))
    return min(room, _MOST_NAME, max(_LEAST_NAME, *(cell_len(name) for name in names)) if names else _LEAST_NAME)


def _sidecars(rows: Sequence[SidecarRow], replicas: Sequence[ReplicaRecord], width: int) -> RenderableType:
    numbers = {printable(record.report.name): str(number) for number, record in enumerate(replicas, 1)}
    names = [row.name for row in rows]
    longest = max((cell_len(name) for name in names), default=0)
    columns = _fitting(_columns(numbers), width - min(max(longest, _LEAST_NAME), _WANTED_NAME))
    first = _first_width(names, width, [column.width for column in columns])
    table = _table([(column.title, column.width) for column in columns], "SIDECAR", first)
    for row in rows:
        cells = [Text(column.text(row)) for column in columns]
        table.add_row(Text(shortened(row.name, first)), *cells, style=_STATES.get(row.lease, ""))
    return table


def _fitting(columns: list[_Column], width: int) -> list[_Column]:
    while columns and sum(column.width + 1 for column in columns) > width:
        columns.remove(min(columns, key=lambda column: column.keep))
    return columns


def _columns(numbers: Mapping[str, str]) -> list[_Column]:
    return [
        _Column(title="ON", width=2, keep=2, text=lambda row: numbers.get(row.replica, "-")),
        _Column(title="LAG", width=5, keep=8, text=lambda row: amount(row.lag)),
        _Column(title="LEASE", width=5, keep=9, text=lambda row: row.lease),
        _Column(title="HIT %", width=5, keep=7, text=lambda row: percent(row.rates)),
        _Column(title="EVER", width=5, keep=3, text=lambda row: percent(row.since_start)),
        _Column(title="ANS/S", width=5, keep=6, text=lambda row: rate(row.rates, _ANSWERS)),
        _Column(title="DENY/S", width=6, keep=5, text=lambda row: rate(row.rates, _DENIALS)),
        _Column(title="UNAV/S", width=6, keep=4, text=lambda row: rate(row.rates, _UNAVAILABLE)),
        _Column(title="CACHED", width=6, keep=1, text=_cached),
        _Column(title="UP", width=9, keep=0, text=_uptime),
    ]


def _cached(row: SidecarRow) -> str:
    figures = row.watcher.figures
    return "-" if figures is None else amount(figures.cached_sessions)


def _uptime(row: SidecarRow) -> str:
    figures = row.watcher.figures
    return "-" if figures is None else in_words(figures.uptime)


def _totals(rows: Sequence[SidecarRow]) -> list[Text]:
    """Sum up what the listed sidecars say, and their denials by reason since each started."""
    recent = [row.rates for row in rows if row.rates is not None]
    ever = [row.since_start for row in rows if row.since_start is not None]
    rates = [number(sum(_per_second(r, count) for r in recent)) for count in (_ANSWERS, _DENIALS, _UNAVAILABLE)]
    answers, denied, unavailable = rates if recent else ("-", "-", "-")
    text = f"all: {answers} answers/s, hits {_ratio(recent)} % (ever {_ratio(ever)} %)"
    text += f", {denied} denied/s, {unavailable} unavailable/s"
    reasons: Counter[int] = Counter()
    for row in rows:
        if row.watcher.figures is not None:
            reasons.update(row.watcher.figures.denials)
    most = ", ".join(f"{REASONS.get(reason, reason)} {amount(count)}" for reason, count in reasons.most_common())
    unknown = len(rows) - len(ever)
    but = f" ({_count(unknown, 'sidecar')} without figures)" if unknown else ""
    return [_line(text, "bold"), _line(f"denials since start{but}: {most or 'none'}")]


def _ratio(all_rates: Sequence[Rates]) -> str:
    hits, answers = sum(rates.hits for rates in all_rates), sum(rates.answers for rates in all_rates)
    return f"{100 * hits / answers:.1f}" if answers else "-"


def percent(rates: Rates | None) -> str:
    """Hit ratio for a column of five."""
    return "-" if rates is None or rates.hit_ratio is None else f"{100 * rates.hit_ratio:.1f}"


def rate(rates: Rates | None, count: Callable[[Rates], int]) -> str:
    """Rate per second for a column of five; `-` if it is not known."""
    return "-" if rates is None else number(_per_second(rates, count))


def number(value: float) -> str:
    """Amount that need not be whole, in at most five characters."""
    return f"{value:.1f}" if 0 < value < 99.95 else amount(round(value))


def amount(value: int) -> str:
    """Whole amount in at most five characters."""
    if value < 100_000:
        return str(value)
    for unit, size in (("k", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12), ("P", 10**15)):
        if value < 10_000 * size:
            return f"{value // size}{unit}"
    return ">9999P"


def shortened(text: str, width: int) -> str:
    """Text in so many cells: what tells names apart stands at their ends."""
    if cell_len(text) <= width:
        return text
    head = max(1, (width - 1) // 3)
    tail = text
    while cell_len(tail) > width - 1 - head:
        tail = tail[1:]
    return set_cell_size(text, head) + "…" + tail
