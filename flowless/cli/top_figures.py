"""What do replicas and sidecars do now? Two looks at the database give rates and warnings. Pure: looks come in.

Times are differences by one clock each: a sidecar's counts by its own uptime, the age of a report by the database's
clock, the time between two looks by ours.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from flowless.cli.printable import printable
from flowless.domain.replicas import ReplicaRecord, SidecarFigures, WatcherReport

SILENT_AFTER: Final = timedelta(seconds=12)
"""A replica reports every five seconds: then two reports did not come."""
_GONE_SHOWN: Final = timedelta(seconds=60)
_MAX_GONE: Final = 1_000
_MARGIN: Final = timedelta(seconds=2)
"""Replicas read the log, and sidecars say how far they are, several times in this time."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The database at one moment: `at` for people, `elapsed` to count from."""

    at: datetime
    elapsed: timedelta
    revision: int
    replicas: Sequence[ReplicaRecord]
    bridge_names: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a sidecar did in `seconds` of its own time."""

    seconds: float
    hits: int
    misses: int
    denials: int
    unavailable: int
    beyond_lease: int

    @property
    def answers(self) -> int:
        """Questions that got an answer, or none (`unavailable`)."""
        return self.hits + self.misses

    @property
    def hit_ratio(self) -> float | None:
        """Share of questions that the cache answered; `None` without questions."""
        return self.hits / self.answers if self.answers else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarRow:
    """One sidecar where it was seen last. `gone_for`: how long it has been missing."""

    watcher: WatcherReport
    bridge: str
    replica: str
    replica_revision: int
    replica_silent: bool
    reported_ago: timedelta
    rates: Rates | None = None
    gone_for: timedelta | None = None

    @property
    def key(self) -> Key:
        """What it is known by, whichever replica it watches."""
        return self.watcher.bridge_id, self.watcher.instance

    @property
    def name(self) -> str:
        """For people, and safe to print."""
        return f"{self.bridge}/{printable(self.watcher.instance) or 'unnamed'}"

    @property
    def lag(self) -> int:
        """Revisions that it was behind its replica when that reported."""
        return max(0, self.replica_revision - self.watcher.applied_revision)

    @property
    def since_start(self) -> Rates | None:
        """What it has done since it started; `None` if it does not say."""
        figures = self.watcher.figures
        return None if figures is None else _rates(figures.uptime, _counts(figures))

    @property
    def lease(self) -> str:
        """`held`, `none`, `left` (its stream has ended), `gone`, `?` where the replica is not heard from.

        `-` for a watcher that keeps no cache.
        """
        watcher = self.watcher
        if self.gone_for is not None:
            return "gone"
        if self.replica_silent:
            return "?"
        if not watcher.connected:
            return "left"
        silent = watcher.silent_for is None or watcher.silent_for >= watcher.max_staleness
        lost = silent or (watcher.figures is not None and not watcher.figures.lease_held)
        return "-" if not watcher.max_staleness else "none" if lost else "held"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that is shown."""

    look: Look
    sidecars: Sequence[SidecarRow]
    warnings: Sequence[str]


def rates_between(before: SidecarFigures, after: SidecarFigures) -> Rates | None:
    """Say what happened between two reports, or since the sidecar started anew; `None` if no time passed."""
    counted, now = _counts(before), _counts(after)
    passed = after.uptime - before.uptime
    if passed < timedelta(0) or any(later < earlier for earlier, later in zip(counted, now, strict=True)):
        counted, passed = (0,) * len(now), after.uptime
    if passed <= timedelta(0):
        return None
    return _rates(passed, [b - a for a, b in zip(counted, now, strict=True)])


def _rates(passed: timedelta, counts: Sequence[int]) -> Rates:
    hits, misses, denials, unavailable, beyond = counts
    return Rates(
        seconds=passed.total_seconds(),
        hits=hits,
        misses=misses,
        denials=denials,
        unavailable=unavailable,
        beyond_lease=beyond,
    )


def _counts(figures: SidecarFigures) -> tuple[int, ...]:
    denials = sum(figures.denials.values())
    return figures.hits, figures.misses, denials, figures.unavailable, figures.answers_beyond_lease


def silent(record: ReplicaRecord) -> bool:
    """Whether a replica has not been heard from for too long."""
    return record.doubted or (record.reported_ago is not None and record.reported_ago >= SILENT_AFTER)


@dataclass(slots=True)
class _Known:
    """What the looks before have shown of one sidecar."""

    row: SidecarRow
    seen: timedelta
    mark: tuple[timedelta, int]
    """When a replica of it reported, some time ago, and the log's end in that report."""
    due: int = 0
    """What it must have applied by now: the log's end in the report before."""


@dataclass(slots=True)
class Observer:
    """Remembers what it needs of the looks before. Bounded: what is listed, and the sidecars gone lately."""

    _known: OrderedDict[Key, _Known] = field(default_factory=OrderedDict)
    _ends: list[tuple[timedelta, int]] = field(default_factory=list)

    def view(self, look: Look) -> View:
        """Take a look into account, and say what there is to see."""
        listed = _listed(look)
        names = Counter(row.key for row in listed)
        # Two sidecars of one name cannot be told apart from look to look: no rates, rather than wrong ones.
        rows = [self._followed(row, look) if names[row.key] == 1 else row for row in listed]
        rows += self._gone(look, {row.key for row in rows})
        warnings = [*self._of_replicas(look), *self._of_sidecars(rows)]
        self._ends = [*self._ends, (look.elapsed, look.revision)][-10:]
        return View(look=look, sidecars=rows, warnings=warnings)

    def _followed(self, row: SidecarRow, look: Look) -> SidecarRow:
        before, figures = self._known.pop(row.key, None), row.watcher.figures
        written = look.elapsed - row.reported_ago
        now = _Known(row, look.elapsed, (written, row.replica_revision))
        if before is not None:
            earlier = before.row.watcher.figures
            rates = before.row.rates
            if earlier is not None and figures is not None and earlier != figures:
                rates = rates_between(earlier, figures) or rates
            now.row = replace(row, rates=rates)
            if written < before.mark[0] + _MARGIN:
                now.mark, now.due = before.mark, before.due
            else:
                now.due = before.mark[1]
        self._known[row.key] = now
        return now.row

    def _gone(self, look: Look, there: set[Key]) -> list[SidecarRow]:
        gone: list[SidecarRow] = []
        for key, known in list(self._known.items()):
            missing = look.elapsed - known.seen
            if key in there:
                continue
            if missing >= _GONE_SHOWN or len(gone) >= _MAX_GONE:
                del self._known[key]
                continue
            gone.append(replace(known.row, rates=None, gone_for=missing))
        return gone

    def _of_replicas(self, look: Look) -> Iterator[str]:
        if not look.replicas:
            yield "no replica of Flowless has reported: none runs, or none can write to this database"
        for record in look.replicas:
            name = printable(record.report.name)
            if silent(record):
                ago = "" if record.reported_ago is None else f" for {in_words(record.reported_ago)}"
                yield f"replica {name} not heard from{ago}: stopped or stuck"
            elif record.report.revision < self._known_end(look, record.reported_ago):
                behind = look.revision - record.report.revision
                yield f"replica {name} does not read the log: {behind} behind"
            listed = len(record.report.watchers)
            if record.report.watching > listed:
                yield f"replica {name} lists {listed} of {record.report.watching} sidecars: those furthest behind"

    def _known_end(self, look: Look, reported_ago: timedelta | None) -> int:
        """Return the log's end that was seen well before a report was written; 0 if no look is as old."""
        if reported_ago is None:
            return 0
        written = look.elapsed - reported_ago - _MARGIN
        return max((revision for elapsed, revision in self._ends if elapsed <= written), default=0)

    def _of_sidecars(self, rows: Sequence[SidecarRow]) -> Iterator[str]:
        for row in rows:
            rates = row.rates
            if row.lease == "gone":
                seen = in_words(row.gone_for or timedelta(0))
                yield f"sidecar {row.name} is gone, seen {seen} ago: stopped or cut off"
            elif row.lease == "none" and row.watcher.silent_for is not None:
                yield f"sidecar {row.name} holds no lease: each request asks Flowless"
            known = self._known.get(row.key)
            if row.lease == "held" and known is not None and row.watcher.applied_revision < known.due:
                yield f"sidecar {row.name} is stuck {row.lag} revisions behind"
            if rates is not None and rates.unavailable:
                yield f"sidecar {row.name} answered UNAVAILABLE {rates.unavailable} times in {rates.seconds:.0f} s"
            if rates is not None and rates.beyond_lease:
                times = f"{rates.beyond_lease} times in {rates.seconds:.0f} s"
                yield f"sidecar {row.name} answered beyond its lease {times}"


def _listed(look: Look) -> list[SidecarRow]:
    """All sidecars, each where it is now: one that moved is listed for a while by the replica that it left, too."""
    best: dict[Key, list[SidecarRow]] = {}
    for record in look.replicas:
        for watcher in record.report.watchers:
            row = SidecarRow(
                watcher=watcher,
                bridge=printable(look.bridge_names.get(watcher.bridge_id, watcher.bridge_id)),
                replica=printable(record.report.name),
                replica_revision=record.report.revision,
                replica_silent=silent(record),
                reported_ago=record.reported_ago or timedelta(0),
            )
            best.setdefault(row.key, []).append(row)
    return [row for rows in best.values() for row in _now(rows)]


def _now(rows: Sequence[SidecarRow]) -> Sequence[SidecarRow]:
    connected = [row for row in rows if row.watcher.connected and not row.replica_silent]
    return connected or rows[:1]


def in_words(time: timedelta) -> str:
    """Duration for people, in its two largest units."""
    seconds = max(0, round(time.total_seconds()))
    units = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
    first = next((i for i, (_, length) in enumerate(units) if seconds >= length), len(units) - 1)
    parts = []
    for unit, length in units[first : first + 2]:
        count, seconds = divmod(seconds, length)
        parts.append(f"{count} {unit}")
    return " ".join(parts)
