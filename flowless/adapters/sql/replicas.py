"""The table of replicas in SQL."""

import json
from collections.abc import Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import Any, Final

import sqlalchemy as sa

from flowless.adapters.sql.database import Database, WriteTransaction
from flowless.adapters.sql.database_clock import NowUs
from flowless.adapters.sql.schema import log_head, replicas
from flowless.domain.replicas import (
    MAX_REPORTED,
    Acknowledgement,
    ReplicaRecord,
    ReplicaReport,
    SidecarFigures,
    WatcherReport,
)
from trust_core.errors import Reason, TrustError

_MICROSECOND: Final = timedelta(microseconds=1)


class SqlReplicaRegistry:
    """See `flowless.ports.replicas.ReplicaRegistry`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def report(self, report: ReplicaReport) -> bool:
        """See the port."""
        reported = report.watchers[:MAX_REPORTED]
        values = {
            "name": report.name,
            "beat": report.beat,
            "doubted": False,
            "revision": report.revision,
            "longest_staleness_us": report.longest_staleness // _MICROSECOND,
            "watching": report.watching,
            "watchers": json.dumps([_watcher_to_json(watcher) for watcher in reported]),
            # Beside them: a Flowless from before does not know longer lists.
            "figures": json.dumps([_figures_to_json(watcher.figures) for watcher in reported]),
            "reported_us": NowUs(),
        }
        anew = {"id": report.id, "acknowledged": 0, "applied": 0, "expired": 0, **values}

        async def work(transaction: WriteTransaction) -> bool:
            updated = await transaction.connection.execute(
                sa.update(replicas).where(replicas.c.id == report.id, replicas.c.beat < report.beat).values(values)
            )
            if updated.rowcount:
                return False
            await transaction.connection.execute(sa.insert(replicas).values(anew))
            return True

        try:
            return await self._database.write(work)
        except sa.exc.IntegrityError:
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "a later report of this replica was there first") from None

    async def acknowledge(self, replica_id: str, acknowledgement: Acknowledgement) -> None:
        """See the port."""
        statement = (
            sa.update(replicas)
            .where(replicas.c.id == replica_id, replicas.c.acknowledged < acknowledgement.revision)
            .values(
                acknowledged=acknowledgement.revision,
                applied=acknowledgement.applied,
                expired=acknowledgement.expired,
            )
        )
        await self._run(statement)

    async def ask(self, revision: int) -> None:
        """See the port."""

        async def work(transaction: WriteTransaction) -> None:
            await transaction.connection.execute(
                sa.update(log_head).where(log_head.c.barrier_revision < revision).values(barrier_revision=revision)
            )
            transaction.wrote_log = True  # so that every replica reads the head soon

        await self._database.write(work)

    async def list(self, *, with_watchers: bool = True) -> Sequence[ReplicaRecord]:
        """See the port."""
        left_out = () if with_watchers else (replicas.c.watchers.name, replicas.c.figures.name)
        columns = [column for column in replicas.c if column.name not in left_out]
        statement = sa.select(*columns, (NowUs() - replicas.c.reported_us).label("reported_ago_us"))
        found = await self._database.fetch(statement.order_by(replicas.c.name, replicas.c.id))
        return [_record(row) for row in found]

    async def doubt(self, replica_id: str, *, beat: int) -> None:
        """See the port."""
        await self._run(
            sa.update(replicas).where(replicas.c.id == replica_id, replicas.c.beat == beat).values(doubted=True)
        )

    async def remove(self, replica_id: str, *, beat: int) -> None:
        """See the port."""
        await self._run(
            sa.delete(replicas).where(replicas.c.id == replica_id, replicas.c.beat == beat, replicas.c.doubted)
        )

    async def _run(self, statement: sa.Executable) -> None:
        async def work(transaction: WriteTransaction) -> None:
            await transaction.connection.execute(statement)

        await self._database.write(work)


def _record(row: Any) -> ReplicaRecord:
    return ReplicaRecord(
        report=ReplicaReport(
            id=row.id,
            name=row.name,
            beat=row.beat,
            revision=row.revision,
            longest_staleness=row.longest_staleness_us * _MICROSECOND,
            watching=row.watching,
            watchers=_watchers(row),
        ),
        doubted=bool(row.doubted),
        acknowledged=Acknowledgement(revision=row.acknowledged, applied=row.applied, expired=row.expired),
        reported_ago=None if row.reported_ago_us is None else max(0, row.reported_ago_us) * _MICROSECOND,
    )


def _watchers(row: Any) -> list[WatcherReport]:
    watchers = json.loads(row.get("watchers", "[]"))
    figures = json.loads(row.get("figures") or "[]")
    return [_watcher_from_json(*both) for both in zip_longest(watchers, figures[: len(watchers)])]


def _watcher_to_json(watcher: WatcherReport) -> list[Any]:
    return [
        watcher.bridge_id,
        watcher.instance,
        watcher.applied_revision,
        None if watcher.silent_for is None else watcher.silent_for // _MICROSECOND,
        watcher.max_staleness // _MICROSECOND,
        watcher.connected,
    ]


def _watcher_from_json(values: list[Any], figures: list[Any] | None) -> WatcherReport:
    bridge_id, instance, applied_revision, silent_us, staleness_us, connected = values
    return WatcherReport(
        bridge_id=bridge_id,
        instance=instance,
        applied_revision=applied_revision,
        silent_for=None if silent_us is None else silent_us * _MICROSECOND,
        max_staleness=staleness_us * _MICROSECOND,
        connected=connected,
        figures=None if figures is None else _figures_from_json(figures),
    )


def _figures_to_json(figures: SidecarFigures | None) -> list[Any] | None:
    if figures is None:
        return None
    return [
        figures.uptime // _MICROSECOND,
        figures.lease_held,
        None if figures.lease_age is None else figures.lease_age // _MICROSECOND,
        figures.cached_sessions,
        figures.hits,
        figures.misses,
        figures.unavailable,
        figures.answers_beyond_lease,
        list(figures.denials.items()),
    ]


def _figures_from_json(values: list[Any]) -> SidecarFigures:
    uptime_us, held, lease_age_us, cached, hits, misses, unavailable, beyond_lease, denials = values[:9]
    return SidecarFigures(
        uptime=uptime_us * _MICROSECOND,
        lease_held=held,
        lease_age=None if lease_age_us is None else lease_age_us * _MICROSECOND,
        cached_sessions=cached,
        hits=hits,
        misses=misses,
        unavailable=unavailable,
        answers_beyond_lease=beyond_lease,
        denials=dict(denials),
    )
