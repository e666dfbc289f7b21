"""Trust tokens in SQL. Locks are taken in this order: user's row, token's, the log's head, the audit log's head."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from flowless.adapters.sql import rows
from flowless.adapters.sql.database import Database, WriteTransaction, from_us, to_us
from flowless.adapters.sql.outbox import add_mail
from flowless.adapters.sql.schema import signing_keys, trust_tokens, users
from flowless.adapters.sql.sessions import add_session
from flowless.adapters.sql.users import add_user, name_taken, revoke_user_sessions
from flowless.domain.audit import AuditEvent
from flowless.domain.mail import OutgoingMail
from flowless.domain.sessions import Session
from flowless.domain.signing_keys import KeyState
from flowless.domain.trust_tokens import Redemption, TrustToken
from flowless.domain.users import User, UserStatus
from flowless.ports.stores import NewUser, SessionRoom
from flowless.ports.trust_tokens import Redeemed

T = TypeVar("T")


class SqlTrustTokenStore:
    """See `flowless.ports.trust_tokens.TrustTokenStore`."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def issue(self, token: TrustToken, *, mail: tuple[OutgoingMail, ...], event: AuditEvent) -> bool:
        """See the port. The statements are the same for a token that is void from the start."""
        now = token.created_at

        async def work(tx: WriteTransaction) -> bool:
            # The locks put two issues for one subject, and a change of password, one after the other.
            query = sa.select(users.c.id).where(users.c.id == (token.user_id or "")).with_for_update()
            has_user = (await tx.connection.execute(query)).first() is not None
            if token.user_id is None:
                await _lock_subject(tx, token)
            signs = sa.select(signing_keys.c.key_id).where(
                signing_keys.c.key_id == token.key_id, signing_keys.c.state == KeyState.ACTIVE.value
            )
            if (await tx.connection.execute(signs)).first() is None:
                return False
            await tx.connection.execute(
                _void(token.purpose, user_id=token.user_id, canonical_email=token.canonical_email, now=now)
            )
            is_void = token.is_void or (token.user_id is not None and not has_user)
            values = _values(token) | {
                "user_id": token.user_id if has_user else None,
                "void_us": to_us(now) if is_void else None,
            }
            await tx.connection.execute(sa.insert(trust_tokens).values(values))
            for each in mail:
                # A notice goes out all the same: whether the token is void is nobody's to find out.
                await add_mail(tx, each, now=now, never=is_void and each.jti is not None)
            await tx.audit(event)
            return True

        return await self._database.write(work)

    async def find_good(self, redemption: Redemption, *, now: datetime) -> TrustToken | None:
        """See the port."""
        return await self._read(_redeemable(redemption, now))

    async def get(self, jti: str, *, now: datetime) -> TrustToken | None:
        """See the port."""
        return await self._read(sa.and_(trust_tokens.c.jti == jti, _good(now)))

    async def _read(self, condition: sa.ColumnElement[bool]) -> TrustToken | None:
        found = await self._database.fetch(sa.select(trust_tokens).where(condition))
        return _token_of(rows.plain(found[0])) if found else None

    async def consume(self, redemption: Redemption, *, now: datetime, event: AuditEvent) -> Redeemed | None:
        """See the port."""

        async def effect(tx: WriteTransaction, token: TrustToken) -> Redeemed:
            await tx.audit(_about(event, token))
            return Redeemed(token=token)

        return await self._spend(redemption, now, effect)

    async def verify_email(self, redemption: Redemption, *, now: datetime, event: AuditEvent) -> Redeemed | None:
        """See the port."""

        async def effect(tx: WriteTransaction, token: TrustToken) -> Redeemed:
            revision = await _verify_email(tx, token, now=now)
            if revision is None:
                raise _UndoError
            await tx.audit(_about(event, token))
            return Redeemed(token=token, revision=revision)

        return await self._spend(redemption, now, effect)

    async def reset_password(
        self, redemption: Redemption, *, new_hash: str, now: datetime, event: AuditEvent
    ) -> Redeemed | None:
        """See the port."""

        async def effect(tx: WriteTransaction, token: TrustToken) -> Redeemed:
            user_id = token.user_id or ""
            values = {
                "password_hash": new_hash,
                "updated_us": to_us(now),
                "token_epoch": users.c.token_epoch + 1,
            }
            await tx.connection.execute(sa.update(users).where(users.c.id == user_id).values(values))
            revision = await revoke_user_sessions(tx, user_id, now=now)
            await tx.audit(_about(event, token))
            return Redeemed(token=token, revision=revision)

        return await self._spend(redemption, now, effect)

    async def log_in(
        self, redemption: Redemption, session: Session, *, room: SessionRoom, event: AuditEvent
    ) -> tuple[Session, User] | None:
        """See the port."""

        async def effect(tx: WriteTransaction, token: TrustToken) -> tuple[Session, User]:
            query = sa.select(users).where(users.c.id == token.user_id, users.c.session_epoch == session.epoch)
            row = (await tx.connection.execute(query)).mappings().first()
            if row is None or token.user_id != session.user_id:
                raise _UndoError
            user, begun = rows.user_of(rows.plain(row)), session
            if not user.email_verified:
                await _take_over(tx, token, now=session.created_at)
                user, begun = replace(user, email_verified=True), replace(session, epoch=session.epoch + 1)
            added = await add_session(tx, begun, room=room, event=event)
            return added, user

        return await self._spend(redemption, session.created_at, effect)

    async def add_user(self, redemption: Redemption, new: NewUser, *, event: AuditEvent) -> Redeemed | None:
        """See the port."""

        async def effect(tx: WriteTransaction, token: TrustToken) -> Redeemed:
            await add_user(tx, new)
            await tx.audit(event)
            return Redeemed(token=token)

        try:
            return await self._spend(redemption, new.user.created_at, effect)
        except sa.exc.IntegrityError as error:
            raise name_taken(error) from None

    async def change_email(
        self, redemption: Redemption, *, notice: OutgoingMail | None, now: datetime, event: AuditEvent
    ) -> tuple[User, int] | None:
        """See the port."""

        async def effect(tx: WriteTransaction, token: TrustToken) -> tuple[User, int]:
            old = sa.select(users.c.email).where(users.c.id == token.user_id)
            left = (await tx.connection.execute(old)).scalar_one()
            values = {
                "email": token.email,
                "canonical_email": token.canonical_email,
                "email_verified": True,
                "updated_us": to_us(now),
                "token_epoch": users.c.token_epoch + 1,
            }
            statement = sa.update(users).where(users.c.id == token.user_id).values(values).returning(*users.c)
            row = (await tx.connection.execute(statement)).mappings().one()
            if notice is not None:
                await add_mail(tx, replace(notice, recipient=left), now=now)
            revision = await tx.append("user", str(token.user_id), now=now)
            await tx.audit(_about(event, token))
            return rows.user_of(rows.plain(row)), revision

        try:
            return await self._spend(redemption, now, effect)
        except sa.exc.IntegrityError:
            return None  # another user has the address by now; the token stays unspent and of no use

    async def revoke(
        self, purpose: str, *, user_id: str | None, canonical_email: str, now: datetime, event: AuditEvent
    ) -> None:
        """See the port."""

        async def work(tx: WriteTransaction) -> None:
            await tx.connection.execute(sa.select(users.c.id).where(users.c.id == (user_id or "")).with_for_update())
            statement = _void(purpose, user_id=user_id, canonical_email=canonical_email, now=now)
            if (await tx.connection.execute(statement)).rowcount:
                await tx.audit(event)

        await self._database.write(work)

    async def _spend(
        self,
        redemption: Redemption,
        now: datetime,
        effect: Callable[[WriteTransaction, TrustToken], Awaitable[T]],
    ) -> T | None:
        """Spend a token and let its effect happen, or neither."""

        async def work(tx: WriteTransaction) -> T | None:
            owner = sa.select(trust_tokens.c.user_id).where(trust_tokens.c.jti == redemption.jti).scalar_subquery()
            await tx.connection.execute(sa.select(users.c.id).where(users.c.id == owner).with_for_update())
            statement = (
                sa.update(trust_tokens)
                .where(_redeemable(redemption, now))
                .values(spent_us=to_us(now))
                .returning(*trust_tokens.c)
            )
            row = (await tx.connection.execute(statement)).mappings().first()
            return None if row is None else await effect(tx, _token_of(rows.plain(row)))

        try:
            return await self._database.write(work)
        except _UndoError:
            return None


class _UndoError(Exception):
    """Rolls a transaction back: what the token is for cannot happen, so it is not spent either."""


async def _take_over(tx: WriteTransaction, token: TrustToken, *, now: datetime) -> None:
    """Give an account whose address was never proven to whoever has just proven it.

    Whoever registered it may be somebody else, who waits for the owner to come: so the password from before is gone,
    every session has ended, and no other token is good. A change of the address voids tokens, so the token's is the
    user's.
    """
    values = {
        "email_verified": True,
        "password_hash": "",
        "updated_us": to_us(now),
        "token_epoch": users.c.token_epoch + 1,
    }
    await tx.connection.execute(sa.update(users).where(users.c.id == token.user_id).values(values))
    await revoke_user_sessions(tx, str(token.user_id), now=now)


async def _verify_email(tx: WriteTransaction, token: TrustToken, *, now: datetime) -> int | None:
    """Note that the token's address is its user's; `None` when the user has another one by now."""
    statement = (
        sa.update(users)
        .where(users.c.id == token.user_id, users.c.canonical_email == token.canonical_email)
        .values(email_verified=True, updated_us=to_us(now))
    )
    if not (await tx.connection.execute(statement)).rowcount:
        return None
    return await tx.append("user", str(token.user_id), now=now)


async def _lock_subject(tx: WriteTransaction, token: TrustToken) -> None:
    """Put two issues for one address without a user one after the other; SQLite has one writer anyway."""
    if tx.connection.dialect.name == "postgresql":
        name = sa.func.hashtextextended(f"{token.purpose} {token.canonical_email}", 0)
        await tx.connection.execute(sa.select(sa.func.pg_advisory_xact_lock(name)))


def _good(now: datetime) -> sa.ColumnElement[bool]:
    """Whether a token can be spent, but for what it is for."""
    moment = to_us(now)
    key_verifies = sa.exists().where(
        signing_keys.c.key_id == trust_tokens.c.key_id,
        sa.or_(
            signing_keys.c.state.in_((KeyState.ACTIVE.value, KeyState.NEXT.value)),
            sa.and_(signing_keys.c.state == KeyState.RETIRED.value, signing_keys.c.expires_us > moment),
        ),
    )
    user_is_as_then = sa.exists().where(
        users.c.id == trust_tokens.c.user_id,
        users.c.token_epoch == trust_tokens.c.token_epoch,
        users.c.status == UserStatus.ACTIVE.value,
    )
    return sa.and_(
        trust_tokens.c.spent_us.is_(None),
        trust_tokens.c.void_us.is_(None),
        trust_tokens.c.expires_us > moment,
        key_verifies,
        sa.or_(trust_tokens.c.user_id.is_(None), user_is_as_then),
    )


def _redeemable(redemption: Redemption, now: datetime) -> sa.ColumnElement[bool]:
    return sa.and_(
        trust_tokens.c.jti == redemption.jti,
        trust_tokens.c.purpose == redemption.purpose,
        trust_tokens.c.audience == redemption.audience,
        _good(now),
    )


def _void(purpose: str, *, user_id: str | None, canonical_email: str, now: datetime) -> sa.Update:
    # Also those of the address from before it had a user.
    of_address = sa.and_(trust_tokens.c.user_id.is_(None), trust_tokens.c.canonical_email == canonical_email)
    subject = of_address if user_id is None else sa.or_(trust_tokens.c.user_id == user_id, of_address)
    return (
        sa.update(trust_tokens)
        .where(
            subject,
            trust_tokens.c.purpose == purpose,
            trust_tokens.c.spent_us.is_(None),
            trust_tokens.c.void_us.is_(None),
        )
        .values(void_us=to_us(now))
    )


def _about(event: AuditEvent, token: TrustToken) -> AuditEvent:
    return replace(event, user_id=token.user_id or "")


def _values(token: TrustToken) -> dict[str, Any]:
    return {
        "jti": token.jti,
        "purpose": token.purpose,
        "audience": token.audience,
        "email": token.email,
        "canonical_email": token.canonical_email,
        "key_id": token.key_id,
        "token_epoch": token.token_epoch,
        "data": json.dumps(dict(token.data), ensure_ascii=False),
        "bridge_id": token.bridge_id,
        "created_us": to_us(token.created_at),
        "expires_us": to_us(token.expires_at),
    }


def _token_of(row: rows.Row) -> TrustToken:
    return TrustToken(
        jti=row["jti"],
        purpose=row["purpose"],
        audience=row["audience"],
        user_id=row["user_id"],
        email=row["email"],
        canonical_email=row["canonical_email"],
        key_id=row["key_id"],
        token_epoch=row["token_epoch"],
        bridge_id=row["bridge_id"],
        created_at=from_us(row["created_us"]),
        expires_at=from_us(row["expires_us"]),
        data=json.loads(row["data"]),
        is_void=row["void_us"] is not None,
    )
