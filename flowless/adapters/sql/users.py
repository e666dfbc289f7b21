"""Users in SQL."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flowless.adapters.sql import rows
from flowless.adapters.sql.database import Database, WriteTransaction, to_us
from flowless.adapters.sql.schema import outbox, sessions, trust_tokens, users
from flowless.domain.audit import AuditEvent
from flowless.domain.sessions import KeptSession
from flowless.domain.users import Profile, User, UserStatus, canonical_user_name
from flowless.ports.stores import Addition, Credentials, NewUser
from trust_core.errors import Reason, TrustError


class SqlUserStore:
    """See `flowless.ports.stores.UserStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def add(self, new: NewUser, *, event: AuditEvent | None = None) -> None:
        """See the port."""

        async def work(tx: WriteTransaction) -> None:
            await add_user(tx, new)
            await tx.audit(event)

        await self._write_named(work)

    async def add_many(self, new: Sequence[NewUser], *, event: AuditEvent | None = None) -> Sequence[Addition]:
        """See the port."""

        async def work(tx: WriteTransaction) -> list[Addition]:
            emails = await _taken(tx, users.c.canonical_email, [each.canonical_email for each in new])
            names = await _taken(
                tx,
                users.c.canonical_user_name,
                [canonical_user_name(each.user.profile.user_name) for each in new if each.user.profile.user_name],
            )
            additions = []
            for each in new:
                name = canonical_user_name(each.user.profile.user_name)
                addition = Addition.ADDED
                if each.canonical_email in emails:
                    addition = Addition.PRESENT
                elif name and name in names:
                    addition = Addition.USER_NAME_TAKEN
                else:
                    await tx.connection.execute(sa.insert(users).values(_values(each)))
                    emails.add(each.canonical_email)
                    names.add(name)
                additions.append(addition)
            added = [
                each.user.id for each, addition in zip(new, additions, strict=True) if addition is Addition.ADDED
            ]
            if added and event is not None:
                await tx.audit(replace(event, details={**event.details, "users": added}))
            return additions

        try:
            return await self._database.write(work)
        except sa.exc.IntegrityError:
            raise TrustError(Reason.CONFLICT, "somebody else took a name meanwhile; repeat") from None

    async def _write_named(self, work: Any) -> Any:
        """Write; of the constraints only that on the user name is left to the database to find broken."""
        try:
            return await self._database.write(work)
        except sa.exc.IntegrityError as error:
            raise name_taken(error) from None

    async def get(self, user_id: str) -> User | None:
        """See the port."""
        found = await self.credentials(user_id)
        return None if found is None else found.user

    async def credentials(self, user_id: str) -> Credentials | None:
        """See the port."""
        return await self._find(users.c.id == user_id)

    async def credentials_by_email(self, canonical_email: str) -> Credentials | None:
        """See the port."""
        return await self._find(users.c.canonical_email == canonical_email)

    async def credentials_by_user_name(self, canonical_user_name: str) -> Credentials | None:
        """See the port."""
        return await self._find(users.c.canonical_user_name == canonical_user_name)

    async def _find(self, condition: sa.ColumnElement[bool]) -> Credentials | None:
        found = await self._database.fetch(sa.select(users).where(condition))
        if not found:
            return None
        row = found[0]
        return Credentials(
            user=rows.user_of(rows.plain(row)),
            password_hash=row["password_hash"],
            epoch=row["session_epoch"],
            token_epoch=row["token_epoch"],
        )

    async def list(self, *, after: str, limit: int) -> Sequence[User]:
        """See the port."""
        statement = sa.select(users).where(users.c.id > after).order_by(users.c.id).limit(limit)
        found = await self._database.fetch(statement)
        return [rows.user_of(rows.plain(row)) for row in found]

    async def update(
        self,
        user_id: str,
        profile: Profile,
        only: frozenset[str],
        *,
        now: datetime,
        event: AuditEvent | None = None,
    ) -> tuple[User, int] | None:
        """See the port."""

        async def work(tx: WriteTransaction) -> tuple[User, int] | None:
            query = sa.select(users.c.roles).where(users.c.id == user_id).with_for_update()
            roles = (await tx.connection.execute(query)).scalar_one_or_none()
            if roles is None:
                return None
            revision = await tx.append("user", user_id, now=now)
            values = rows.profile_values(profile, only) | {"updated_us": to_us(now)}
            if values.get("roles", roles) != roles:
                values["privilege_revision"] = revision
            statement = sa.update(users).where(users.c.id == user_id).values(values).returning(*users.c)
            row = (await tx.connection.execute(statement)).mappings().one()
            await tx.audit(event)
            return rows.user_of(rows.plain(row)), revision

        result: tuple[User, int] | None = await self._write_named(work)
        return result

    async def set_status(
        self, user_id: str, status: UserStatus, *, now: datetime, event: AuditEvent | None = None
    ) -> int | None:
        """See the port."""

        async def work(tx: WriteTransaction) -> int | None:
            query = sa.select(users.c.status).where(users.c.id == user_id).with_for_update()
            current = (await tx.connection.execute(query)).scalar_one_or_none()
            if current is None:
                return None
            if current == status.value:
                return await tx.log_end()
            values: dict[str, Any] = {"status": status.value, "updated_us": to_us(now)}
            if status is UserStatus.DISABLED:
                values["session_epoch"] = users.c.session_epoch + 1
                values["token_epoch"] = users.c.token_epoch + 1
            await tx.connection.execute(sa.update(users).where(users.c.id == user_id).values(values))
            revision = await tx.append("user", user_id, now=now)
            await tx.audit(event)
            return revision

        return await self._database.write(work)

    async def delete(self, user_id: str, *, now: datetime, event: AuditEvent | None = None) -> int:
        """See the port."""

        async def work(tx: WriteTransaction) -> int:
            statement = (
                sa.delete(users).where(users.c.id == user_id).returning(users.c.email, users.c.canonical_email)
            )
            gone = (await tx.connection.execute(statement)).one_or_none()
            if gone is None:
                return await tx.log_end()
            # What else holds the address: tokens from before it had a user, and mail.
            tokens = sa.delete(trust_tokens).where(trust_tokens.c.canonical_email == gone.canonical_email)
            await tx.connection.execute(tokens)
            await tx.connection.execute(sa.delete(outbox).where(outbox.c.recipient == gone.email))
            revision = await tx.append("user", user_id, now=now)
            await tx.audit(event)
            return revision

        return await self._database.write(work)

    async def set_password(
        self,
        user_id: str,
        *,
        expected_hash: str,
        new_hash: str,
        kept: KeptSession | None = None,
        now: datetime,
        event: AuditEvent | None = None,
    ) -> tuple[int, bool] | None:
        """See the port."""

        async def work(tx: WriteTransaction) -> tuple[int, bool] | None:
            statement = (
                sa.update(users)
                .where(users.c.id == user_id, users.c.password_hash == expected_hash)
                .values(password_hash=new_hash, updated_us=to_us(now), token_epoch=users.c.token_epoch + 1)
            )
            if not (await tx.connection.execute(statement)).rowcount:
                return None
            if kept is not None:
                # Before the log's head, as whoever ends or rotates this session takes them.
                await tx.connection.execute(
                    sa.select(sessions.c.handle).where(sessions.c.digest == kept.digest).with_for_update()
                )
            revision = await revoke_user_sessions(tx, user_id, now=now)
            is_kept = kept is not None and await _keep(tx, user_id, kept, revision=revision)
            await tx.audit(event)
            return revision, is_kept

        return await self._database.write(work)

    async def upgrade_hash(self, user_id: str, *, expected_hash: str, new_hash: str) -> None:
        """See the port."""

        async def work(tx: WriteTransaction) -> None:
            await tx.connection.execute(
                sa.update(users)
                .where(users.c.id == user_id, users.c.password_hash == expected_hash)
                .values(password_hash=new_hash)
            )

        await self._database.write(work)


def name_taken(error: sa.exc.IntegrityError) -> TrustError:
    """Say which of the names that must be unique another user has."""
    # PostgreSQL's text also quotes the value, which may be anything; SQLite's names the column only.
    diagnosis = getattr(error.orig, "diag", None)
    broken = str(error.orig) if diagnosis is None else str(diagnosis.constraint_name)
    if "canonical_email" in broken:
        return TrustError(Reason.EMAIL_TAKEN, "another user has this e-mail address")
    return TrustError(Reason.USER_NAME_TAKEN, "another user has this user name")


async def add_user(tx: WriteTransaction, new: NewUser) -> None:
    """Add a user; TrustError EMAIL_TAKEN, or an IntegrityError that `name_taken` explains."""
    taken = sa.select(users.c.id).where(users.c.canonical_email == new.canonical_email)
    if (await tx.connection.execute(taken)).first() is not None:
        raise TrustError(Reason.EMAIL_TAKEN, "another user has this e-mail address")
    await tx.connection.execute(sa.insert(users).values(_values(new)))


def _values(new: NewUser) -> dict[str, Any]:
    return rows.user_values(new.user) | {
        "canonical_email": new.canonical_email,
        "password_hash": new.password_hash,
        "session_epoch": 1,
    }


async def _taken(tx: WriteTransaction, column: sa.Column[Any], names: Sequence[str]) -> set[str]:
    found = await tx.connection.execute(sa.select(column).where(column.in_(names)))
    return set(found.scalars())


async def _keep(tx: WriteTransaction, user_id: str, kept: KeptSession, *, revision: int) -> bool:
    """Bring a session of the epoch that has just ended into the new one, under its new digest."""
    epoch = sa.select(users.c.session_epoch).where(users.c.id == user_id).scalar_subquery()
    statement = (
        sa.update(sessions)
        .where(
            sessions.c.digest == kept.digest,
            sessions.c.user_id == user_id,
            sessions.c.epoch == epoch - 1,
            sessions.c.revoked_us.is_(None),
        )
        .values(epoch=epoch, digest=kept.new_digest, id_revision=revision)
    )
    return bool((await tx.connection.execute(statement)).rowcount)


async def revoke_user_sessions(
    tx: WriteTransaction, user_id: str, *, except_handle: str = "", now: datetime, event: AuditEvent | None = None
) -> int:
    """Revoke all of a user's sessions but one by moving the user to a new epoch: one write, whatever their number."""
    moved = (
        sa.update(users)
        .where(users.c.id == user_id)
        .values(session_epoch=users.c.session_epoch + 1)
        .returning(users.c.session_epoch)
    )
    epoch = (await tx.connection.execute(moved)).scalar_one_or_none()
    if epoch is None:
        return await tx.log_end()
    if except_handle:
        # Only a session of the epoch before may come along: one revoked earlier stays revoked.
        await tx.connection.execute(
            sa.update(sessions)
            .where(sessions.c.handle == except_handle, sessions.c.user_id == user_id, sessions.c.epoch == epoch - 1)
            .values(epoch=epoch)
        )
    revision = await tx.append("user", user_id, now=now)
    await tx.audit(event)
    return revision
