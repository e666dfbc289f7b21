"""Stores over a fresh database, one factory per engine, and records to put into them."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from flowless.adapters.sql.audit import SqlAuditTrail
from flowless.adapters.sql.bridges import SqlBridgeStore
from flowless.adapters.sql.database import Database
from flowless.adapters.sql.housekeeping import SqlHousekeepingStore
from flowless.adapters.sql.migrate import migrate
from flowless.adapters.sql.outbox import SqlOutbox
from flowless.adapters.sql.replicas import SqlReplicaRegistry
from flowless.adapters.sql.revocation_log import SqlRevocationLog
from flowless.adapters.sql.sessions import SqlSessionStore
from flowless.adapters.sql.signing_keys import SqlSigningKeyStore
from flowless.adapters.sql.trust_tokens import SqlTrustTokenStore
from flowless.adapters.sql.users import SqlUserStore
from flowless.domain.audit import Actor
from flowless.domain.bridges import Bridge, BridgeSecret, Scope
from flowless.domain.revocations import Revocation
from flowless.domain.sessions import Session
from flowless.domain.users import Profile, User, UserStatus
from flowless.ports.audit import AuditTrail
from flowless.ports.housekeeping import HousekeepingStore
from flowless.ports.mail import Outbox
from flowless.ports.replicas import ReplicaRegistry
from flowless.ports.stores import BridgeStore, NewUser, RevocationLog, SessionStore, UserStore
from flowless.ports.trust_tokens import SigningKeyStore, TrustTokenStore
from tests.support import databases
from trust_core.identifiers import digest, new_bridge_id, new_session_handle, new_session_id, new_user_id
from trust_core.modes import RequestContext, bind

NOW: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
HASH: Final = "$hash$1"
BY: Final = Actor(name="test")
SECOND: Final = timedelta(seconds=1)
HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """All stores over one database, as the ports describe them."""

    users: UserStore
    sessions: SessionStore
    bridges: BridgeStore
    log: RevocationLog
    housekeeping: HousekeepingStore
    replicas: ReplicaRegistry
    audit: AuditTrail
    tokens: TrustTokenStore
    signing_keys: SigningKeyStore
    outbox: Outbox
    database: Database
    log_of: Callable[..., RevocationLog]
    """The log as a replica reads it whose last report was this."""
    when_log_written: Callable[[Callable[[], None]], None]

    async def end(self) -> int:
        """The log's end."""
        return (await self.log.head()).revision

    async def rows(self, after: int = 0) -> list[Revocation]:
        """The log's rows after a revision."""
        return list(await self.log.after(after, until=await self.end(), limit=100_000))

    async def written_by(self, work: Any) -> tuple[Any, list[tuple[str, str]]]:
        """Await the work; return its result and the subjects and keys of the rows that it wrote."""
        before = await self.end()
        result = await work
        return result, [(row.subject, row.key) for row in await self.rows(before)]

    async def add_user(self, email: str = "", *, user_name: str = "", password_hash: str = HASH) -> User:
        """Add a user with a fresh id."""
        fresh = new_user(email, user_name=user_name)
        await self.users.add(NewUser(user=fresh, canonical_email=fresh.email.casefold(), password_hash=password_hash))
        return fresh

    async def add_session(self, user: User, **changes: Any) -> Session:
        """Log the user in, in the present epoch."""
        found = await self.users.credentials(user.id)
        assert found is not None
        fresh = new_session(user.id, epoch=found.epoch, **changes)
        added = await self.sessions.add(fresh, expected_hash=found.password_hash)
        assert added is not None
        return added

    async def is_live(self, session: Session) -> bool:
        """Whether the session is neither revoked, nor of an epoch before, nor of a user who is not active."""
        read = await self.sessions.read(session.digest)
        return (
            read.session is not None
            and read.user is not None
            and read.user.status is UserStatus.ACTIVE
            and read.session.revoked_at is None
            and read.session.epoch == read.user_epoch
        )


Factory = Callable[[Path], AbstractAsyncContextManager[Stores]]


def over(database: Database) -> Stores:
    """The stores over an open database."""
    return Stores(
        users=SqlUserStore(database=database),
        sessions=SqlSessionStore(database=database),
        bridges=SqlBridgeStore(database=database),
        log=SqlRevocationLog(database=database),
        housekeeping=SqlHousekeepingStore(database=database),
        replicas=SqlReplicaRegistry(database=database),
        audit=SqlAuditTrail(database=database),
        tokens=SqlTrustTokenStore(database=database),
        signing_keys=SqlSigningKeyStore(database=database),
        outbox=SqlOutbox(database=database),
        database=database,
        log_of=lambda replica_id, beat=1: SqlRevocationLog(
            database=database, replica_id=replica_id, confirmed_beat=lambda: beat
        ),
        when_log_written=database.when_log_written,
    )


_migrated_sqlite: list[bytes] = []
"""The migrated file, made once in each process: a copy is ten times cheaper than the migrations."""


async def new_sqlite_file(directory: Path) -> Path:
    """Make a migrated SQLite file in the directory."""
    file = directory / "flowless.db"
    if not _migrated_sqlite:
        database = Database.open(sqlite_url(file))
        await migrate(database)
        await database.close()
        _migrated_sqlite.append(file.read_bytes())
    file.write_bytes(_migrated_sqlite[0])
    return file


def sqlite_url(file: Path) -> str:
    """URL of a SQLite file."""
    return f"sqlite:///{file}"


@asynccontextmanager
async def sqlite(directory: Path) -> AsyncIterator[Stores]:
    """Stores over a new, migrated SQLite file in the directory."""
    async with sqlite_stores(await new_sqlite_file(directory)) as stores:
        yield stores


@asynccontextmanager
async def sqlite_stores(file: Path) -> AsyncIterator[Stores]:
    """Stores over a SQLite file that is there."""
    database = Database.open(sqlite_url(file), busy_timeout_seconds=5.0)
    try:
        yield over(database)
    finally:
        await database.close()


@asynccontextmanager
async def postgres(_: Path) -> AsyncIterator[Stores]:
    """Stores over a new, migrated database of this process' PostgreSQL."""
    with databases.new_postgres_database() as url:
        database = Database.open(url, busy_timeout_seconds=5.0)
        try:
            yield over(database)
        finally:
            await database.close()


ENGINES: Final[dict[str, Factory]] = {"sqlite": sqlite, "postgres": postgres}
"""Every engine that has to pass `tests/conformance`."""

_counter = itertools.count(1)


def counting_random(size: int) -> bytes:
    """Bytes that never repeat in this process; enough where nobody guesses."""
    return next(_counter).to_bytes(size)


def new_user(email: str = "", *, user_name: str = "") -> User:
    """A user that is in no store yet."""
    user_id = new_user_id(counting_random)
    return User(
        id=user_id,
        # Not the id: two ids may differ in letter case alone, two addresses may not.
        email=email or f"user-{next(_counter)}@example.org",
        email_verified=False,
        status=UserStatus.ACTIVE,
        profile=Profile(
            user_name=user_name,
            name="Ada",
            last_name="Lovelace",
            phone="+44 1",
            picture_url="https://example.org/ada.png",
            user_type="person",
            locale="en-GB",
            roles=("admin", "éditeur"),
            attributes={"plan": "free", "limits": [1, 2.5, None, True], "nested": {"ключ": "值"}},
        ),
        created_at=NOW,
        updated_at=NOW,
    )


def new_session(user_id: str, *, epoch: int = 1, **changes: Any) -> Session:
    """A session that is in no store yet."""
    session = Session(
        digest=digest(new_session_id(counting_random)),
        handle=new_session_handle(counting_random),
        user_id=user_id,
        epoch=epoch,
        binding=bind(RequestContext("203.0.113.7", "device", "agent"), bytes(range(32))),
        methods=("password",),
        device_name="Firefox on Linux",
        bridge_id="0123456789abcdef",
        created_at=NOW,
        authenticated_at=NOW,
        last_seen_at=NOW,
        expires_at=NOW + HOUR,
    )
    return replace(session, **changes)


def new_bridge(name: str, *, secrets: int = 1) -> Bridge:
    """A bridge that is in no store yet."""
    return Bridge(
        id=new_bridge_id(counting_random),
        name=name,
        scopes=frozenset({Scope.VALIDATE, Scope.SESSIONS}),
        created_at=NOW,
        secrets=tuple(
            BridgeSecret(digest=fresh_digest(), created_at=NOW + number * SECOND) for number in range(secrets)
        ),
    )


def fresh_digest() -> bytes:
    """A digest that nothing else has."""
    return digest(new_session_id(counting_random))
