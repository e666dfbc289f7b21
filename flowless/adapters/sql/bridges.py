"""Bridges in SQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flowless.adapters.sql import rows
from flowless.adapters.sql.database import Database, WriteTransaction, to_us
from flowless.adapters.sql.schema import bridge_secrets, bridges, trust_tokens
from flowless.domain.audit import AuditEvent
from flowless.domain.bridges import Bridge, BridgeSecret, BridgeUse
from trust_core.errors import Reason, TrustError

_Rows = tuple[rows.Row, list[rows.Row]]


def _used(table: sa.Table, key: sa.Column[Any]) -> sa.Update:
    us = sa.bindparam("us", type_=sa.BigInteger)
    older = sa.or_(table.c.last_used_us.is_(None), table.c.last_used_us < us)
    return sa.update(table).where(key == sa.bindparam("key"), older).values(last_used_us=us)


class SqlBridgeStore:
    """See `flowless.ports.stores.BridgeStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def add(self, bridge: Bridge, *, event: AuditEvent | None = None) -> None:
        """See the port."""

        async def work(tx: WriteTransaction) -> None:
            await tx.connection.execute(sa.insert(bridges).values(rows.bridge_values(bridge)))
            for secret in bridge.secrets:
                await tx.connection.execute(sa.insert(bridge_secrets).values(rows.secret_values(bridge.id, secret)))
            await tx.audit(event)

        try:
            await self._database.write(work)
        except sa.exc.IntegrityError:
            raise TrustError(Reason.BRIDGE_NAME_TAKEN, "another bridge has this name") from None

    async def get(self, bridge_id: str) -> Bridge | None:
        """See the port."""
        found = await self._select(bridges.c.id == bridge_id)
        return found[0] if found else None

    async def find(self, name: str) -> Bridge | None:
        """See the port."""
        found = await self._select(bridges.c.name == name)
        return found[0] if found else None

    async def list(self) -> Sequence[Bridge]:
        """See the port."""
        return await self._select(sa.true())

    async def _select(self, condition: sa.ColumnElement[bool]) -> Sequence[Bridge]:
        # One statement, hence one snapshot of a bridge and its secrets.
        statement = (
            sa.select(
                *bridges.c,
                *(column.label(f"secret_{column.name}") for column in bridge_secrets.c),
            )
            .select_from(bridges.outerjoin(bridge_secrets, bridge_secrets.c.bridge_id == bridges.c.id))
            .where(condition)
            .order_by(bridges.c.name, bridge_secrets.c.created_us)
        )
        found = await self._database.fetch(statement)
        grouped: dict[str, _Rows] = {}
        for mapping in found:
            row = rows.plain(mapping)
            _, secrets = grouped.setdefault(row["id"], (row, []))
            if row["secret_digest"] is not None:
                secrets.append({key.removeprefix("secret_"): row[key] for key in row if key.startswith("secret_")})
        return [rows.bridge_of(row, secrets) for row, secrets in grouped.values()]

    async def add_secret(
        self,
        bridge_id: str,
        secret: BridgeSecret,
        *,
        others_expire_at: datetime,
        event: AuditEvent | None = None,
    ) -> int | None:
        """See the port."""

        async def work(tx: WriteTransaction) -> int | None:
            live = (
                sa.select(bridges.c.id)
                .where(bridges.c.id == bridge_id, bridges.c.revoked_us.is_(None))
                .with_for_update()
            )
            if (await tx.connection.execute(live)).first() is None:
                return None
            limit = to_us(others_expire_at)
            others = (
                sa.update(bridge_secrets)
                .where(
                    bridge_secrets.c.bridge_id == bridge_id,
                    sa.or_(bridge_secrets.c.expires_us.is_(None), bridge_secrets.c.expires_us > limit),
                )
                .values(expires_us=limit)
            )
            await tx.connection.execute(others)
            await tx.connection.execute(sa.insert(bridge_secrets).values(rows.secret_values(bridge_id, secret)))
            revision = await tx.append("bridge", bridge_id, now=secret.created_at)
            await tx.audit(event)
            return revision

        return await self._database.write(work)

    async def bind(
        self, bridge_id: str, client_id: str, *, now: datetime, event: AuditEvent | None = None
    ) -> int | None:
        """See the port."""

        async def work(tx: WriteTransaction) -> int | None:
            bound = (
                sa.update(bridges)
                .where(bridges.c.id == bridge_id, bridges.c.revoked_us.is_(None))
                .values(client_id=client_id)
            )
            if (await tx.connection.execute(bound)).rowcount == 0:
                return None
            revision = await tx.append("bridge", bridge_id, now=now)
            await tx.audit(event)
            return revision

        return await self._database.write(work)

    async def record_uses(self, uses: Sequence[BridgeUse]) -> None:
        """See the port."""
        by_bridge: dict[str, int] = {}
        for use in uses:
            by_bridge[use.bridge_id] = max(by_bridge.get(use.bridge_id, 0), to_us(use.at))
        # In one order, bridges first as everywhere: replicas that write at once do not wait for each other in a ring.
        of_bridges = [{"key": key, "us": us} for key, us in sorted(by_bridge.items())]
        of_secrets = [{"key": use.digest, "us": to_us(use.at)} for use in sorted(uses, key=lambda use: use.digest)]

        async def work(tx: WriteTransaction) -> None:
            await tx.connection.execute(_used(bridges, bridges.c.id), of_bridges)
            await tx.connection.execute(_used(bridge_secrets, bridge_secrets.c.digest), of_secrets)

        if uses:
            await self._database.write(work)

    async def revoke(self, bridge_id: str, *, now: datetime, event: AuditEvent | None = None) -> int | None:
        """See the port."""

        async def work(tx: WriteTransaction) -> int | None:
            query = sa.select(bridges.c.id, bridges.c.revoked_us).where(bridges.c.id == bridge_id).with_for_update()
            row = (await tx.connection.execute(query)).first()
            if row is None:
                return None
            if row.revoked_us is not None:
                return await tx.log_end()
            revoked = sa.update(bridges).where(bridges.c.id == bridge_id).values(revoked_us=to_us(now))
            await tx.connection.execute(revoked)
            # What it issued may be in the hands of whoever made it necessary to revoke it.
            await tx.connection.execute(
                sa.update(trust_tokens)
                .where(
                    trust_tokens.c.bridge_id == bridge_id,
                    trust_tokens.c.spent_us.is_(None),
                    trust_tokens.c.void_us.is_(None),
                )
                .values(void_us=to_us(now))
            )
            revision = await tx.append("bridge", bridge_id, now=now)
            await tx.audit(event)
            return revision

        return await self._database.write(work)
