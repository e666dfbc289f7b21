"""A tier may say what it likes: what is served is true, as late as the caller allows."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest

from flowless.domain.revocations import LogHead
from flowless.domain.sessions import Session, SessionLimits, SessionRead
from flowless.services.recent_revocations import RecentRevocations
from flowless.services.session_tiers import SessionTiers
from tests.support.clock import FakeClock
from tests.support.stores import NOW, Stores, sqlite
from trust_core.clock import NS_PER_SECOND

LIMITS = SessionLimits(absolute=timedelta(hours=1), idle=timedelta(minutes=30), per_user=100)
SECOND = NS_PER_SECOND


class Tier:
    """Keeps what it is told to, forgets and lies as the test wants."""

    enabled = True

    def __init__(self) -> None:
        self.entries: dict[bytes, SessionRead] = {}
        self.ttls: dict[bytes, float] = {}
        self.buried: dict[bytes, int] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, digest: bytes, *, log_id: str) -> SessionRead | None:
        found = self.entries.get(digest)
        await self.gate.wait()
        return found

    async def fill(self, digest: bytes, read: SessionRead, *, log_id: str, ttl_seconds: float) -> None:
        self.entries[digest], self.ttls[digest] = read, ttl_seconds

    async def bury(self, digest: bytes, revision: int, *, log_id: str) -> None:
        self.buried[digest] = revision

    async def close(self) -> None:
        """Nothing to close."""


@dataclass(slots=True)
class Tail:
    position: LogHead
    read_began_ns: int


@dataclass(slots=True)
class Bench:
    """Tiers over a real store, whose tail reads when the test says so."""

    stores: Stores
    clock: FakeClock = field(default_factory=FakeClock)
    tier: Tier = field(default_factory=Tier)
    recent: RecentRevocations = field(default_factory=RecentRevocations)
    tail: Tail = field(default_factory=lambda: Tail(LogHead(log_id="", revision=0, compacted_through=0), 0))
    longest_staleness_ns: int = 10 * NS_PER_SECOND
    tiers: SessionTiers = field(init=False)

    def __post_init__(self) -> None:
        self.tiers = SessionTiers(
            store=self.stores.sessions,
            tier=self.tier,
            recent=self.recent,
            tail=self.tail,
            limits=LIMITS,
            max_ttl_seconds=600,
            longest_staleness_ns=lambda: self.longest_staleness_ns,
            clock=self.clock,
        )

    async def read_log(self) -> None:
        began = self.clock.elapsed_ns()
        for row in await self.stores.rows(self.tail.position.revision):
            self.recent.on_revocation(row)
            self.tiers.on_revocation(row)
        self.tail.position, self.tail.read_began_ns = await self.stores.log.head(), began
        await asyncio.sleep(0)

    async def session(self) -> Session:
        now = self.clock.now()
        user = await self.stores.add_user()
        return await self.stores.add_session(
            user, created_at=now, authenticated_at=now, last_seen_at=now, expires_at=now + LIMITS.absolute
        )

    async def ask(self, session: Session, *, min_revision: int = 0, staleness: float = 1.0) -> tuple[bool, bool]:
        """Whether the session is live, and whether the tier said so."""
        found = await self.tiers.read(
            session.digest, min_revision=min_revision, max_staleness_ns=round(staleness * SECOND)
        )
        await asyncio.sleep(0.01)  # the fill goes on behind
        read = found.read
        live = read.session is not None and read.session.revoked_at is None and read.session.epoch == read.user_epoch
        return live, found.from_tier


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with sqlite(tmp_path) as stores:
        made = Bench(stores)
        await made.read_log()
        yield made
        await made.tiers.close()


async def test_the_second_question_is_answered_by_the_tier(bench: Bench) -> None:
    session = await bench.session()
    assert await bench.ask(session) == (True, False)
    assert await bench.ask(session) == (True, True)
    assert bench.tier.ttls[session.digest] == 600, "never longer than the cap"


async def test_no_entry_outlives_its_session(bench: Bench) -> None:
    session = await bench.session()
    bench.clock.advance(1_790)
    await bench.read_log()
    await bench.ask(session)
    assert 0 < bench.tier.ttls[session.digest] <= 10


async def test_an_answer_older_than_others_would_wait_for_is_not_believed_whatever_the_caller_takes(
    bench: Bench,
) -> None:
    """A revoke that waits for all sidecars waits so long for a replica that hangs, and no longer."""
    session = await bench.session()
    await bench.ask(session)
    await bench.read_log()
    bench.longest_staleness_ns = 2 * SECOND
    bench.clock.advance(2)
    assert await bench.ask(session, staleness=600) == (True, True)
    bench.clock.advance(0.001)
    assert await bench.ask(session, staleness=600) == (True, False)


async def test_who_takes_no_old_answer_gets_none(bench: Bench) -> None:
    session = await bench.session()
    await bench.ask(session)
    assert await bench.ask(session, staleness=0) == (True, False)


async def test_a_replica_that_has_not_read_the_log_lately_asks_the_database(bench: Bench) -> None:
    session = await bench.session()
    await bench.ask(session)
    bench.clock.advance(1.0)
    assert await bench.ask(session) == (True, True)
    bench.clock.advance(0.001)
    assert await bench.ask(session) == (True, False)


@pytest.mark.parametrize("how", ["session", "user"])
async def test_a_revocation_that_was_read_is_stronger_than_any_entry(bench: Bench, how: str) -> None:
    session = await bench.session()
    await bench.ask(session)
    old = bench.tier.entries[session.digest]
    if how == "session":
        await bench.stores.sessions.revoke(session.digest, now=NOW)
    else:
        await bench.stores.sessions.revoke_user(session.user_id, except_handle="", now=NOW)
    await bench.read_log()
    bench.tier.entries[session.digest] = old  # put back by whoever can write to the tier
    assert await bench.ask(session) == (False, False)
    assert bench.tier.buried == ({session.digest: 1} if how == "session" else {})


async def test_a_revocation_that_is_read_while_the_tier_is_asked_counts(bench: Bench) -> None:
    session = await bench.session()
    await bench.ask(session)
    bench.tier.gate.clear()
    asking = asyncio.ensure_future(bench.ask(session))
    await asyncio.sleep(0.01)
    await bench.stores.sessions.revoke(session.digest, now=NOW)
    await bench.read_log()
    bench.tier.gate.set()
    assert await asking == (False, False)


async def test_an_answer_is_as_good_as_what_it_was_checked_against(bench: Bench) -> None:
    session, other = await bench.session(), await bench.session()
    await bench.ask(session)
    revision = await bench.stores.sessions.revoke(other.digest, now=NOW)
    assert await bench.ask(session, min_revision=revision) == (True, False), "this replica has not read so far"
    bench.tier.entries[session.digest] = replace(bench.tier.entries[session.digest], revision=0)
    await bench.read_log()
    found = await bench.tiers.read(session.digest, min_revision=revision, max_staleness_ns=SECOND)
    assert (found.from_tier, found.read.revision) == (True, revision)


async def test_what_an_entry_says_other_than_active_is_asked_of_the_database(bench: Bench) -> None:
    session = await bench.session()
    await bench.ask(session)
    entry = bench.tier.entries[session.digest]
    assert entry.session is not None
    long_ago = replace(entry.session, last_seen_at=bench.clock.now() - LIMITS.idle)
    bench.tier.entries[session.digest] = replace(entry, session=long_ago)
    assert await bench.ask(session) == (True, False)


async def test_denials_and_reads_that_a_revocation_has_overtaken_are_not_kept(bench: Bench) -> None:
    session = await bench.session()
    await bench.stores.sessions.revoke(session.digest, now=NOW)
    await bench.ask(session)
    assert bench.tier.entries == {}
    late = await bench.session()
    read = await bench.stores.sessions.read(late.digest)
    await bench.stores.sessions.revoke(late.digest, now=NOW)
    await bench.read_log()
    await bench.tiers._fill(late.digest, read, bench.tail.position.log_id, bench.clock.elapsed_ns())
    assert bench.tier.entries == {}


async def test_after_the_log_was_replaced_no_entry_is_believed(bench: Bench) -> None:
    session = await bench.session()
    await bench.ask(session)
    await bench.stores.sessions.revoke((await bench.session()).digest, now=NOW)
    bench.recent.start_over(LogHead(log_id="another", revision=1, compacted_through=0))
    bench.tail.position = LogHead(log_id="another", revision=1, compacted_through=0)
    assert await bench.ask(session) == (True, False)


async def test_background_work_is_bounded(bench: Bench) -> None:
    sessions = [await bench.session() for _ in range(20)]
    reads = [bench.tiers.read(s.digest, min_revision=0, max_staleness_ns=0) for s in sessions * 40]
    await asyncio.gather(*reads)
    assert len(bench.tiers._background) <= 256


async def test_an_entry_from_beyond_what_this_replica_has_read_is_not_believed(bench: Bench) -> None:
    """It is ahead of a replica that lags, or of a database that was restored and knows nothing of it."""
    session = await bench.session()
    await bench.ask(session)
    bench.tier.entries[session.digest] = replace(bench.tier.entries[session.digest], revision=1)
    assert await bench.ask(session) == (True, False)


async def test_an_entry_that_was_asked_for_under_another_log_is_not_believed(bench: Bench) -> None:
    session = await bench.session()
    await bench.ask(session)
    bench.tier.gate.clear()
    asking = asyncio.ensure_future(bench.ask(session))
    await asyncio.sleep(0.01)
    bench.tail.position = replace(bench.tail.position, log_id="another")
    bench.tier.gate.set()
    assert await asking == (True, False)
