"""The revocation log in SQL, read-only. Writers append through `WriteTransaction.append`."""

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from flowless.adapters.sql.database import Database
from flowless.adapters.sql.schema import log_head, replicas, revocations
from flowless.domain.revocations import LogHead, Revocation
from trust_core.errors import Reason, TrustError


class SqlRevocationLog:
    """See `flowless.ports.stores.RevocationLog`."""

    def __init__(
        self,
        *,
        database: Database,
        engine: AsyncEngine | None = None,
        replica_id: str = "",
        confirmed_beat: Callable[[], int] = lambda: 0,
    ) -> None:
        """`engine`: read through this one instead of the shared readers.

        `replica_id`, `confirmed_beat`: whose membership `LogHead.member` tells, and of which report at least.
        """
        self._database = database
        self._confirmed_beat = confirmed_beat
        self._engine = engine
        member: sa.ColumnElement[bool] = sa.true()
        if replica_id:
            member = sa.exists().where(
                replicas.c.id == replica_id, sa.not_(replicas.c.doubted), replicas.c.beat >= sa.bindparam("beat")
            )
        self._head = sa.select(log_head, member.label("member"))
        self._is_replica = bool(replica_id)

    async def head(self) -> LogHead:
        """See the port."""
        parameters = {"beat": self._confirmed_beat()} if self._is_replica else None
        found = await self._database.fetch(self._head, parameters, engine=self._engine)
        if not found:
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "there is no log; run `flowless migrate`")
        (row,) = found
        return LogHead(
            log_id=row.log_id,
            revision=row.revision,
            compacted_through=row.compacted_through,
            barrier_revision=row.barrier_revision,
            member=bool(row.member),
        )

    async def after(self, revision: int, *, until: int, limit: int) -> Sequence[Revocation]:
        """See the port."""
        statement = (
            sa.select(revocations.c.revision, revocations.c.subject, revocations.c.key)
            .where(revocations.c.revision > revision, revocations.c.revision <= until)
            .order_by(revocations.c.revision)
            .limit(limit)
        )
        found = await self._database.fetch(statement, engine=self._engine)
        return [Revocation(revision=row.revision, subject=row.subject, key=row.key) for row in found]
