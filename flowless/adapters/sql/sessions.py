"""Sessions in SQL."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from flowless.adapters.sql import rows
from flowless.adapters.sql.database import Database, WriteTransaction, to_us
from flowless.adapters.sql.schema import log_head, sessions, users
from flowless.adapters.sql.users import revoke_user_sessions
from flowless.domain.audit import AuditEvent
from flowless.domain.sessions import Session, SessionActivity, SessionRead
from flowless.domain.users import UserStatus
from flowless.ports.stores import SessionRoom
from trust_core.errors import Reason, TrustError

T = TypeVar("T")

_MOST_EVICTED: Final = 100
"""Of one login: when a deployment lowers its limit, a user's logins work off the rest."""

_COLUMNS = sa.select(
    log_head.c.revision.label("log_revision"),
    *(column.label(f"s_{column.name}") for column in sessions.c),
    *(column.label(f"u_{column.name}") for column in users.c if column.name != "password_hash"),
)
_READ = _COLUMNS.select_from(
    log_head.outerjoin(sessions, sessions.c.digest == sa.bindparam("digest")).outerjoin(
        users, users.c.id == sessions.c.user_id
    )
)
_READ_MANY = _COLUMNS.select_from(
    log_head.join(sessions, sessions.c.digest.in_(sa.bindparam("digests", expanding=True))).join(
        users, users.c.id == sessions.c.user_id
    )
)
_LIVE = _COLUMNS.select_from(
    log_head.join(sessions, sessions.c.used_by == sa.bindparam("bridge_id")).join(
        users, users.c.id == sessions.c.user_id
    )
).where(
    log_head.c.only_row == 1,
    sessions.c.revoked_us.is_(None),
    sessions.c.epoch == users.c.session_epoch,
    users.c.status == UserStatus.ACTIVE.value,
)


def _session_read(row: sa.RowMapping) -> SessionRead:
    plain = rows.plain(row)
    if plain["s_digest"] is None or plain["u_id"] is None:
        return SessionRead(revision=plain["log_revision"])
    return SessionRead(
        revision=plain["log_revision"],
        session=rows.session_of(plain, "s_"),
        user=rows.user_of(plain, "u_"),
        user_epoch=plain["u_session_epoch"],
    )


class SqlSessionStore:
    """See `flowless.ports.stores.SessionStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def add(
        self,
        session: Session,
        *,
        expected_hash: str,
        room: SessionRoom | None = None,
        event: AuditEvent | None = None,
    ) -> Session | None:
        """See the port."""

        async def work(tx: WriteTransaction) -> Session | None:
            # FOR UPDATE: revoking all of the user's sessions either sees this session or moves the epoch first.
            same_user = (
                sa.select(users.c.id)
                .where(
                    users.c.id == session.user_id,
                    users.c.password_hash == expected_hash,
                    users.c.status == UserStatus.ACTIVE.value,
                    users.c.session_epoch == session.epoch,
                )
                .with_for_update()
            )
            if (await tx.connection.execute(same_user)).first() is None:
                return None
            return await add_session(tx, session, room=room, event=event)

        return await self._write_fresh(work)

    async def _write_fresh(self, work: Callable[[WriteTransaction], Awaitable[T]]) -> T:
        """Write a new digest or handle; one that another session has is a conflict, never two sessions in one."""
        try:
            return await self._database.write(work)
        except sa.exc.IntegrityError:
            raise TrustError(Reason.CONFLICT, "another session has this identifier; retry") from None

    async def read(self, digest: bytes) -> SessionRead:
        """See the port. One statement, hence one snapshot."""
        (row,) = await self._database.fetch(_READ, {"digest": digest})
        return _session_read(row)

    async def read_many(self, digests: Sequence[bytes]) -> Mapping[bytes, SessionRead]:
        """See the port. One statement, hence one snapshot."""
        found = await self._database.fetch(_READ_MANY, {"digests": list(digests)})
        return {bytes(row["s_digest"]): _session_read(row) for row in found}

    async def revoke(self, digest: bytes, *, now: datetime, event: AuditEvent | None = None) -> int:
        """See the port."""
        return await self._revoke(sessions.c.digest == digest, now=now, event=event)

    async def revoke_handle(self, handle: str, *, now: datetime, event: AuditEvent | None = None) -> int:
        """See the port."""
        return await self._revoke(sessions.c.handle == handle, now=now, event=event)

    async def _revoke(self, which: sa.ColumnElement[bool], *, now: datetime, event: AuditEvent | None) -> int:
        async def work(tx: WriteTransaction) -> int:
            statement = (
                sa.update(sessions)
                .where(which, sessions.c.revoked_us.is_(None))
                .values(revoked_us=to_us(now))
                .returning(sessions.c.digest, sessions.c.handle, sessions.c.user_id)
            )
            revoked = (await tx.connection.execute(statement)).one_or_none()
            if revoked is None:
                return await tx.log_end()
            revision = await tx.append("session", bytes(revoked.digest).hex(), now=now)
            if event is not None:
                await tx.audit(replace(event, subject=revoked.handle, user_id=revoked.user_id))
            return revision

        return await self._database.write(work)

    async def revoke_user(
        self, user_id: str, *, except_handle: str, now: datetime, event: AuditEvent | None = None
    ) -> int:
        """See the port."""

        async def work(tx: WriteTransaction) -> int:
            return await revoke_user_sessions(tx, user_id, except_handle=except_handle, now=now, event=event)

        return await self._database.write(work)

    async def replace_digest(
        self,
        digest: bytes,
        *,
        expected_epoch: int,
        new: bytes,
        authenticated: tuple[str, ...] | None = None,
        now: datetime,
        event: AuditEvent | None = None,
    ) -> int | None:
        """See the port."""
        values: dict[str, Any] = {"digest": new}
        if authenticated is not None:
            values |= {"authenticated_us": to_us(now), "methods": rows.list_text(authenticated)}

        async def work(tx: WriteTransaction) -> int | None:
            live_user = sa.exists().where(
                users.c.id == sessions.c.user_id,
                users.c.session_epoch == expected_epoch,
                users.c.status == UserStatus.ACTIVE.value,
            )
            statement = (
                sa.update(sessions)
                .where(
                    sessions.c.digest == digest,
                    sessions.c.epoch == expected_epoch,
                    sessions.c.revoked_us.is_(None),
                    sessions.c.expires_us > to_us(now),
                    live_user,
                )
                .values(values)
            )
            if not (await tx.connection.execute(statement)).rowcount:
                return None
            revision = await tx.append("session", digest.hex(), now=now)
            made = sa.update(sessions).where(sessions.c.digest == new).values(id_revision=revision)
            await tx.connection.execute(made)
            await tx.audit(event)
            return revision

        return await self._write_fresh(work)

    async def list_live(
        self, user_id: str, *, now: datetime, seen_after: datetime, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Session]:
        """See the port."""
        statement = (
            sa.select(sessions)
            .join(users, users.c.id == sessions.c.user_id)
            .where(
                sessions.c.user_id == user_id,
                sessions.c.revoked_us.is_(None),
                sessions.c.epoch == users.c.session_epoch,
                sessions.c.expires_us > to_us(now),
                sessions.c.last_seen_us > to_us(seen_after),
            )
            .order_by(sessions.c.created_us.desc(), sessions.c.handle.desc())
            .limit(limit)
        )
        if before is not None:
            created, handle = to_us(before[0]), before[1]
            statement = statement.where(
                sa.or_(
                    sessions.c.created_us < created,
                    sa.and_(sessions.c.created_us == created, sessions.c.handle < handle),
                )
            )
        found = await self._database.fetch(statement)
        return [rows.session_of(rows.plain(row)) for row in found]

    async def recently_used(
        self,
        bridge_id: str,
        *,
        before: tuple[datetime, bytes] | None,
        seen_after: datetime,
        now: datetime,
        limit: int,
    ) -> Sequence[SessionRead]:
        """See the port. One statement, hence one snapshot."""
        statement = (
            _LIVE.where(sessions.c.expires_us > to_us(now), sessions.c.last_seen_us > to_us(seen_after))
            .order_by(sessions.c.last_seen_us.desc(), sessions.c.digest.desc())
            .limit(limit)
        )
        if before is not None:
            seen, digest = to_us(before[0]), before[1]
            # The first condition says nothing more than the second, and lets the index begin there.
            statement = statement.where(
                sessions.c.last_seen_us <= seen,
                sa.or_(sessions.c.last_seen_us < seen, sessions.c.digest < digest),
            )
        found = await self._database.fetch(statement, {"bridge_id": bridge_id})
        return [_session_read(row) for row in found]

    async def touch(
        self, activities: Sequence[SessionActivity], *, bridge_id: str, now: datetime, interval_seconds: float
    ) -> None:
        """See the port."""
        updates = [
            {"b_digest": a.digest, "b_seen": to_us(now - a.idle_for), "b_limit": to_us(now - a.idle_for - interval)}
            for interval in (timedelta(seconds=interval_seconds),)
            # In one order, so that two reports at once never wait for each other.
            for a in sorted(activities, key=lambda activity: activity.digest)
        ]
        if not updates:
            return

        async def work(tx: WriteTransaction) -> None:
            statement = (
                sa.update(sessions)
                .where(
                    sessions.c.digest == sa.bindparam("b_digest"),
                    sessions.c.last_seen_us <= sa.bindparam("b_limit"),
                    sessions.c.revoked_us.is_(None),
                )
                .values(last_seen_us=sa.bindparam("b_seen"), used_by=bridge_id)
            )
            await tx.connection.execute(statement, updates)

        await self._database.write(work)


async def add_session(
    tx: WriteTransaction, session: Session, *, room: SessionRoom | None, event: AuditEvent | None
) -> Session:
    """Add a session under its user's row lock, which the caller holds, and revoke the oldest ones over the limit."""
    evicted = [] if room is None else await _evict(tx, session, room)
    session = replace(session, id_revision=await tx.log_end())
    await tx.connection.execute(sa.insert(sessions).values(rows.session_values(session)))
    if event is not None:
        await tx.audit(replace(event, details={**event.details, "evicted": evicted}) if evicted else event)
    return session


async def _evict(tx: WriteTransaction, added: Session, room: SessionRoom) -> list[str]:
    """Revoke the user's oldest live sessions, so that with the one to be added `most` are left."""
    over = (
        sa.select(sessions.c.digest, sessions.c.handle)
        .where(
            sessions.c.user_id == added.user_id,
            sessions.c.epoch == added.epoch,
            sessions.c.revoked_us.is_(None),
            sessions.c.expires_us > to_us(added.created_at),
            sessions.c.last_seen_us > to_us(room.seen_after),
        )
        .order_by(sessions.c.created_us.desc(), sessions.c.handle.desc())
        .offset(room.most - 1)
        .limit(_MOST_EVICTED)
    )
    handles = [row.handle for row in (await tx.connection.execute(over)).all()]
    if not handles:
        return []
    # By handle, since a rotation may give one of them another digest meanwhile; all of them before the log's head, as
    # whoever ends or rotates a session takes them.
    mine = sa.select(sessions.c.digest).where(sessions.c.handle.in_(handles), sessions.c.revoked_us.is_(None))
    await tx.connection.execute(mine.order_by(sessions.c.handle).with_for_update())
    ended = (
        sa.update(sessions)
        .where(sessions.c.handle.in_(handles), sessions.c.revoked_us.is_(None))
        .values(revoked_us=to_us(added.created_at))
        .returning(sessions.c.digest, sessions.c.handle)
    )
    rows_ended = (await tx.connection.execute(ended)).all()
    for row in rows_ended:
        await tx.append("session", bytes(row.digest).hex(), now=added.created_at)
    return sorted(row.handle for row in rows_ended)
