"""Signing keys in SQL."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flowless.adapters.sql import rows
from flowless.adapters.sql.database import Database, WriteTransaction, from_us, to_us
from flowless.adapters.sql.schema import audit_head, signing_keys
from flowless.domain.audit import AuditEvent
from flowless.domain.signing_keys import KeyState, SigningKey
from trust_core.errors import Reason, TrustError


class SqlSigningKeyStore:
    """See `flowless.ports.trust_tokens.SigningKeyStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def list(self) -> list[SigningKey]:
        """See the port."""
        order = (signing_keys.c.created_us.desc(), signing_keys.c.key_id)
        found = await self._database.fetch(sa.select(signing_keys).order_by(*order))
        return [_key_of(rows.plain(row)) for row in found]

    async def rotate(
        self, fresh: tuple[SigningKey, SigningKey], *, overlap_until: datetime, now: datetime, event: AuditEvent
    ) -> SigningKey:
        """See the port."""

        async def work(tx: WriteTransaction) -> SigningKey:
            # The audit log's head is the one row that every rotation writes anyway: taken first, it orders them.
            await tx.connection.execute(sa.select(audit_head.c.sequence).with_for_update())
            retired = {"state": KeyState.RETIRED.value, "retired_us": to_us(now), "expires_us": to_us(overlap_until)}
            await tx.connection.execute(_where(KeyState.ACTIVE).values(retired))
            active = {"state": KeyState.ACTIVE.value, "activated_us": to_us(now)}
            statement = _where(KeyState.NEXT).values(active).returning(*signing_keys.c)
            row = (await tx.connection.execute(statement)).mappings().first()
            if row is None:
                values = _values(fresh[1]) | active
                statement_first = sa.insert(signing_keys).values(values).returning(*signing_keys.c)
                row = (await tx.connection.execute(statement_first)).mappings().one()
            await tx.connection.execute(sa.insert(signing_keys).values(_values(fresh[0])))
            key = _key_of(rows.plain(row))
            await tx.audit(replace(event, subject=key.key_id))
            return key

        return await self._database.write(work)

    async def destroy(self, key_id: str, *, event: AuditEvent) -> None:
        """See the port."""

        async def work(tx: WriteTransaction) -> None:
            query = sa.select(signing_keys.c.state).where(signing_keys.c.key_id == key_id).with_for_update()
            state = (await tx.connection.execute(query)).scalar_one_or_none()
            if state is None:
                raise TrustError(Reason.SIGNING_KEY_NOT_FOUND, "no such signing key")
            if state == KeyState.DESTROYED:
                return
            if state != KeyState.RETIRED:
                raise TrustError(
                    Reason.SIGNING_KEY_IN_USE,
                    f"the signing key is {state}; rotate until it is retired",
                )
            gone = {"state": KeyState.DESTROYED.value, "wrapped_key": ""}
            await tx.connection.execute(sa.update(signing_keys).where(signing_keys.c.key_id == key_id).values(gone))
            await tx.audit(event)

        await self._database.write(work)

    async def replace_wrapped(self, key_id: str, *, expected: str, wrapped: str, event: AuditEvent) -> None:
        """See the port."""

        async def work(tx: WriteTransaction) -> None:
            replaced = await tx.connection.execute(
                sa.update(signing_keys)
                .where(signing_keys.c.key_id == key_id, signing_keys.c.wrapped_key == expected)
                .values(wrapped_key=wrapped)
            )
            if replaced.rowcount:
                await tx.audit(event)

        await self._database.write(work)


def _where(state: KeyState) -> sa.Update:
    return sa.update(signing_keys).where(signing_keys.c.state == state.value)


def _values(key: SigningKey) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "public_key": key.public_key,
        "wrapped_key": key.wrapped,
        "state": key.state.value,
        "created_us": to_us(key.created_at),
    }


def _key_of(row: rows.Row) -> SigningKey:
    return SigningKey(
        key_id=row["key_id"],
        public_key=bytes(row["public_key"]),
        wrapped=row["wrapped_key"],
        state=KeyState(row["state"]),
        created_at=from_us(row["created_us"]),
        activated_at=rows.optional(row["activated_us"]),
        retired_at=rows.optional(row["retired_us"]),
        expires_at=rows.optional(row["expires_us"]),
    )
