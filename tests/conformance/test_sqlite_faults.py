"""Storage that fails says so in our words: no driver's exception and no parameter gets out, no write is half done."""

import asyncio
import os
import sqlite3
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flowless.adapters.sql.database import Database
from flowless.adapters.sql.migrate import SchemaError, migrate, require_served
from flowless.domain.bridges import BridgeSecret
from flowless.domain.sessions import SessionActivity
from flowless.domain.users import Profile, User, UserStatus
from flowless.ports.stores import NewUser
from tests.support.stores import (
    HASH,
    NOW,
    SECOND,
    Stores,
    fresh_digest,
    new_bridge,
    new_session,
    new_sqlite_file,
    new_user,
    over,
    sqlite_url,
)
from trust_core.errors import Reason, TrustError

BUSY_SECONDS = 0.1
ENOUGH = 30.0
SENTINEL = "parameter-that-must-not-get-out"


@asynccontextmanager
async def _opened(file: Path, *, max_pages: int | None = None, query: str = "") -> AsyncIterator[Stores]:
    database = Database.open(sqlite_url(file) + query, busy_timeout_seconds=BUSY_SECONDS, max_pages=max_pages)
    try:
        yield over(database)
    finally:
        await database.close()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the write lock as another process does."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def _writes(stores: Stores) -> list[Awaitable[object]]:
    """Every method that writes, with a sentinel wherever one fits."""
    user = replace(new_user(), id=SENTINEL, email=SENTINEL, profile=Profile(user_name=SENTINEL))
    activities = [SessionActivity(digest=SENTINEL.encode(), idle_for=SECOND)]
    secret = BridgeSecret(digest=SENTINEL.encode(), created_at=NOW)
    return [
        stores.users.add(NewUser(user=user, canonical_email=SENTINEL, password_hash=SENTINEL)),
        stores.users.update(SENTINEL, Profile(name=SENTINEL), frozenset({"name"}), now=NOW),
        stores.users.set_status(SENTINEL, UserStatus.DISABLED, now=NOW),
        stores.users.delete(SENTINEL, now=NOW),
        stores.users.set_password(SENTINEL, expected_hash=SENTINEL, new_hash=SENTINEL, now=NOW),
        stores.users.upgrade_hash(SENTINEL, expected_hash=SENTINEL, new_hash=SENTINEL),
        stores.sessions.add(new_session(user.id, handle=SENTINEL), expected_hash=SENTINEL),
        stores.sessions.revoke(SENTINEL.encode(), now=NOW),
        stores.sessions.revoke_handle(SENTINEL, now=NOW),
        stores.sessions.revoke_user(SENTINEL, except_handle=SENTINEL, now=NOW),
        stores.sessions.replace_digest(SENTINEL.encode(), expected_epoch=1, new=SENTINEL.encode(), now=NOW),
        stores.sessions.touch(activities, bridge_id=SENTINEL, now=NOW, interval_seconds=0),
        stores.bridges.add(replace(new_bridge(SENTINEL), id=SENTINEL)),
        stores.bridges.add_secret(SENTINEL, secret, others_expire_at=NOW),
        stores.bridges.revoke(SENTINEL, now=NOW),
    ]


def _reads(stores: Stores) -> list[Awaitable[object]]:
    """Every method that reads, with a sentinel wherever one fits."""
    return [
        stores.users.get(SENTINEL),
        stores.users.credentials(SENTINEL),
        stores.users.credentials_by_email(SENTINEL),
        stores.users.credentials_by_user_name(SENTINEL),
        stores.users.list(after=SENTINEL, limit=1),
        stores.sessions.read(SENTINEL.encode()),
        stores.sessions.list_live(SENTINEL, now=NOW, seen_after=NOW, before=(NOW, SENTINEL), limit=1),
        stores.bridges.get(SENTINEL),
        stores.bridges.find(SENTINEL),
        stores.bridges.list(),
        stores.log.head(),
        stores.log.after(0, until=1, limit=1),
    ]


async def _refusal_of(call: Awaitable[object]) -> TrustError:
    with pytest.raises(TrustError) as caught:
        async with asyncio.timeout(ENOUGH):
            await call
    assert SENTINEL not in "".join(traceback.format_exception(caught.value))
    assert caught.value.retry_after is not None
    return caught.value


async def _all_unavailable(calls: list[Awaitable[object]]) -> None:
    for call in calls:
        assert (await _refusal_of(call)).reason is Reason.STORAGE_UNAVAILABLE


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    return await new_sqlite_file(tmp_path)


async def test_a_write_gives_up_when_another_process_keeps_the_database_locked(file: Path) -> None:
    async with _opened(file) as stores:
        with _locked(file):
            await _all_unavailable(_writes(stores))
        assert await stores.end() == 0
        assert await stores.users.list(after="", limit=1) == []
        await stores.add_user()


async def test_reads_go_on_while_the_database_is_locked(file: Path) -> None:
    async with _opened(file) as stores:
        user = await stores.add_user()
        session = await stores.add_session(user)
        with _locked(file):
            assert await stores.is_live(session)
            for read in _reads(stores):
                await read


async def test_many_writers_that_wait_for_a_lock_all_get_an_answer(file: Path) -> None:
    async with _opened(file) as stores:
        with _locked(file):
            calls = (stores.sessions.revoke_handle("", now=NOW) for _ in range(30))
            refusals = await asyncio.gather(*(_refusal_of(call) for call in calls))
        assert {refusal.reason for refusal in refusals} == {Reason.STORAGE_UNAVAILABLE}
        assert await stores.sessions.revoke_handle("", now=NOW) == 0


async def test_a_writer_waits_for_a_lock_that_is_released_in_time(file: Path) -> None:
    database = Database.open(sqlite_url(file), busy_timeout_seconds=ENOUGH)
    stores = over(database)
    with _locked(file):
        adding = asyncio.ensure_future(stores.add_user())
        done, _ = await asyncio.wait({adding}, timeout=0.05)
        assert not done
    async with asyncio.timeout(ENOUGH):
        user = await adding
        assert await stores.users.get(user.id) == user
    await database.close()


async def _add_until_refused(stores: Stores) -> tuple[list[User], TrustError]:
    added: list[User] = []
    while len(added) < 1_000:
        fresh = replace(new_user(f"{SENTINEL}{len(added)}"), profile=Profile(name="x" * 1_000))
        adding = stores.users.add(NewUser(user=fresh, canonical_email=fresh.email, password_hash=HASH))
        result = (await asyncio.gather(adding, return_exceptions=True))[0]
        if isinstance(result, TrustError):
            assert SENTINEL not in "".join(traceback.format_exception(result))
            return added, result
        added.append(fresh)
    pytest.fail("the disk never got full")


async def test_a_full_disk_is_told_apart_and_leaves_nothing_half_written(file: Path) -> None:
    async with _opened(file) as stores:
        user = await stores.add_user()
        session = await stores.add_session(user)
    with closing(sqlite3.connect(file)) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    big = Profile(attributes={"text": "x" * 60_000})
    async with _opened(file, max_pages=pages + 4) as stores:
        refusal = await _refusal_of(stores.users.update(user.id, big, frozenset({"attributes"}), now=NOW))
        assert refusal.reason is Reason.STORAGE_FULL
        assert await stores.users.get(user.id) == user
        added, refusal = await _add_until_refused(stores)
        assert refusal.reason is Reason.STORAGE_FULL
        assert await stores.is_live(session)
        assert await stores.rows() == []
    async with _opened(file) as stores:
        assert {u.id for u in await stores.users.list(after="", limit=2_000)} == {user.id, *(u.id for u in added)}
        assert await stores.sessions.revoke(session.digest, now=NOW) == 1
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _corrupt(file: Path) -> None:
    file.write_bytes(os.urandom(100_000))


def _overwrite_the_middle(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def _become_a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _lose_the_directory(file: Path) -> None:
    file.unlink()
    file.parent.rmdir()


def _lose_the_tables(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [_corrupt, _overwrite_the_middle, _truncate, _become_a_directory, _lose_the_directory, _lose_the_tables],
    ids=lambda damage: damage.__name__.strip("_"),
)
async def test_a_database_that_cannot_be_used_is_unavailable(file: Path, damage: Callable[[Path], None]) -> None:
    private = file.parent / "private"
    private.mkdir()
    file = file.rename(private / file.name)
    damage(file)
    async with _opened(file) as stores:
        await _all_unavailable([*_reads(stores), *_writes(stores)])


@pytest.mark.parametrize(
    ("damage", "mend"),
    [
        (_corrupt, "no SQLite database"),
        (_become_a_directory, "cannot be opened"),
        (_lose_the_directory, "cannot be opened"),
    ],
)
async def test_what_no_retry_mends_is_not_told_to_retry(
    file: Path, damage: Callable[[Path], None], mend: str
) -> None:
    private = file.parent / "private"
    private.mkdir()
    file = file.rename(private / file.name)
    damage(file)
    async with _opened(file) as stores:
        refusal = await _refusal_of(stores.users.get("usr"))
    assert mend in refusal.message
    assert "retry" not in refusal.message


@pytest.mark.parametrize("damage", [_corrupt, _become_a_directory])
async def test_a_database_that_cannot_be_used_is_neither_checked_nor_migrated(
    file: Path, damage: Callable[[Path], None]
) -> None:
    damage(file)
    database = Database.open(sqlite_url(file), busy_timeout_seconds=BUSY_SECONDS)
    for call in (require_served(database), migrate(database)):
        assert (await _refusal_of(call)).reason is Reason.STORAGE_UNAVAILABLE
    await database.close()


async def test_a_missing_file_is_a_missing_schema(tmp_path: Path) -> None:
    database = Database.open(sqlite_url(tmp_path / "missing.db"))
    with pytest.raises(SchemaError):
        await require_served(database)
    await database.close()


async def test_a_database_that_is_read_only_can_be_read_and_refuses_writes(file: Path) -> None:
    async with _opened(file) as stores:
        user = await stores.add_user()
    read_only = file.parent / f"file:{file}"
    database = Database.open(f"sqlite:///file:{file}?mode=ro&uri=true", busy_timeout_seconds=BUSY_SECONDS)
    stores = over(database)
    assert await stores.users.get(user.id) == user
    await _all_unavailable([stores.users.delete(user.id, now=NOW)])
    assert await stores.users.get(user.id) == user
    await database.close()
    assert not read_only.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_directory_that_is_read_only_is_unavailable(file: Path) -> None:
    file.parent.chmod(0o500)
    try:
        async with _opened(file) as stores:
            await _all_unavailable([stores.users.delete("usr", now=NOW)])
    finally:
        file.parent.chmod(0o700)


@pytest.mark.parametrize("taken", ["email", "user name", "bridge name", "session digest"])
async def test_a_broken_constraint_shows_no_parameter(file: Path, taken: str) -> None:
    async with _opened(file) as stores:
        user = await stores.add_user(f"{SENTINEL}@example.org", user_name=SENTINEL)
        session = await stores.add_session(user, digest=SENTINEL.encode(), handle=SENTINEL)
        await stores.bridges.add(new_bridge(SENTINEL))
        again: dict[str, Callable[[], Awaitable[object]]] = {
            "email": lambda: stores.add_user(f"{SENTINEL}@example.org"),
            "user name": lambda: stores.add_user(user_name=SENTINEL),
            "bridge name": lambda: stores.bridges.add(new_bridge(SENTINEL)),
            "session digest": lambda: stores.sessions.add(replace(session, handle="other"), expected_hash=HASH),
        }
        with pytest.raises(TrustError) as caught:
            await again[taken]()
        assert SENTINEL not in "".join(traceback.format_exception(caught.value))


async def test_closing_waits_for_writes_whose_callers_are_gone(file: Path) -> None:
    async with _opened(file) as stores:
        user = await stores.add_user()
        caller = asyncio.ensure_future(stores.sessions.revoke_user(user.id, except_handle="", now=NOW))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
    async with _opened(file) as stores:
        assert await stores.end() == 1
        assert (await stores.sessions.read(fresh_digest())).revision == 1
