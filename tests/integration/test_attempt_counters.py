"""Counters of attempts when Redis goes, hangs, fills up, is read by others; and memory under a flood."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from flowless.adapters.attempts.counters import LocalCounters, SharedCounters
from flowless.adapters.attempts.memory import BoundedMemoryStorage
from flowless.adapters.redis.calls import CallStats
from flowless.adapters.redis.connect import connect
from flowless.domain.attempts import AttemptKind, Limit
from flowless.services.attempts import AttemptLimiter
from tests.support.attempts import LIMITS
from tests.support.audit import RecordedAudit
from tests.support.clock import FakeClock
from tests.support.report_log import log_into_report
from tests.support.stores import BY
from tools.redis_server import RedisServer
from trust_core.clock import SystemClock
from trust_core.modes import RequestContext

LIMIT = Limit(name="test", amount=3, seconds=60)
ENOUGH = 20.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log_into_report(level="error")
    yield
    log_into_report()


@asynccontextmanager
async def replica(url: str, *, timeout_seconds: float = 5.0) -> AsyncIterator[SharedCounters]:
    clock = SystemClock()
    counters = SharedCounters(
        client=connect(url, max_connections=64),
        local=LocalCounters(clock=clock, max_entries=1_000),
        clock=clock,
        timeout_seconds=timeout_seconds,
    )
    try:
        yield counters
    finally:
        await counters.close()


async def test_two_replicas_count_together_and_each_alone_when_redis_is_killed() -> None:
    with RedisServer() as server:
        async with replica(server.url) as one, replica(server.url) as two:
            assert (await one.hit(LIMIT, "a")).within
            assert (await one.hit(LIMIT, "a")).within
            assert (await two.hit(LIMIT, "a")).within
            assert not (await two.hit(LIMIT, "a")).within
            server.kill()
            # What this replica has seen counts on: two of three.
            assert [(await one.hit(LIMIT, "a")).within for _ in range(5)] == [True] + [False] * 4
            for number in range(5):
                assert (await one.hit(LIMIT, f"other {number}")).within, "nobody is refused because Redis is away"
            assert one.alone
            server.start()
            await _until_not_alone(one)
            assert (await one.hit(LIMIT, "b")).within
            with server.client() as client:
                assert client.dbsize() > 0


async def _until_not_alone(counters: SharedCounters) -> None:
    async with asyncio.timeout(ENOUGH):
        while counters.alone:
            await counters.count(LIMIT, "a")
            await asyncio.sleep(0.02)


async def test_a_redis_that_hangs_is_left_alone_and_every_attempt_is_counted_in_memory() -> None:
    with RedisServer() as server:
        async with replica(server.url, timeout_seconds=0.05) as counters:
            server.pause()
            try:
                hits = await asyncio.gather(*(counters.hit(LIMIT, str(number % 5)) for number in range(100)))
                assert sum(hit.within for hit in hits) == 15
                assert counters.alone
            finally:
                server.resume()


async def test_a_redis_that_was_flushed_gives_nobody_a_fresh_start_on_the_replica_that_counted() -> None:
    with RedisServer() as server:
        async with replica(server.url) as counters:
            for _ in range(4):
                await counters.hit(LIMIT, "a")
            with server.client() as client:
                client.flushall()
            assert not (await counters.hit(LIMIT, "a")).within
            assert await counters.count(LIMIT, "a") == 5


async def test_what_is_refused_here_is_not_asked_of_redis() -> None:
    with RedisServer() as server:
        async with replica(server.url) as counters:
            for _ in range(10):
                await counters.hit(LIMIT, "a")
            with server.client() as client:
                assert client.get("tl:a:test/a") == b"3"


async def test_a_redis_that_takes_no_more_is_as_good_as_none() -> None:
    with RedisServer("--maxmemory", "1", "--maxmemory-policy", "noeviction") as server:
        async with replica(server.url) as counters:
            hits = [(await counters.hit(LIMIT, "a")).within for _ in range(5)]
            assert hits == [True] * 3 + [False] * 2
            assert counters.stats.failures > 0


async def test_a_cluster_a_unix_socket_and_sentinels_work_alike() -> None:
    with (
        RedisServer() as one,
        RedisServer("--cluster-enabled", "yes") as cluster,
        RedisServer("--sentinel") as watcher,
    ):
        with cluster.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        with watcher.client() as client:
            client.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", str(one.port), "1")
        for url in (
            f"unix://{one.socket}",
            f"redis+cluster://127.0.0.1:{cluster.port}",
            f"redis+sentinel://127.0.0.1:1,127.0.0.1:{watcher.port}/main",
        ):
            async with asyncio.timeout(ENOUGH):
                await _until_counted_together(url)
                # In less time than a Sentinel that is away could be tried again and again.
                async with replica(url, timeout_seconds=2.5) as counters, replica(url, timeout_seconds=2.5) as other:
                    assert [(await counters.hit(LIMIT, url)).within for _ in range(4)] == [True] * 3 + [False]
                    assert await counters.count(LIMIT, url) == 4
                    assert not (await other.hit(LIMIT, url)).within
                    await counters.clear(LIMIT, url)
                    assert (counters.stats, other.stats) == (CallStats(), CallStats())


async def _until_counted_together(url: str) -> None:
    """A cluster that was just made or a master not yet known refuses for a moment; what came too late fails later."""
    async with replica(url, timeout_seconds=0.5) as counters:
        for number in itertools.count():
            before = replace(counters.stats)
            await counters.hit(LIMIT, f"warm {number}")
            if counters.stats == before:
                return
            await asyncio.sleep(0.02)


async def test_who_reads_redis_finds_neither_a_login_name_nor_an_address_nor_a_device() -> None:
    with RedisServer() as server:
        async with replica(server.url) as counters:
            limiter = AttemptLimiter(
                counters=counters, limits=LIMITS, audit=RecordedAudit(), key=b"k" * 32, clock=SystemClock()
            )
            context = RequestContext("203.0.113.7", "the-device", "agent")
            for _ in range(2):
                async with limiter.attempt(
                    AttemptKind.LOGIN, account="ada-lovelace@example.org", context=context, by=BY
                ):
                    pass
            with server.client() as client:
                keys = list(client.scan_iter())
                everything = b"".join(key + client.get(key) for key in keys)
        assert keys
        for text in ("lovelace", "example.org", "203.0.113", "the-device", BY.name):
            assert text.encode() not in everything
        assert all(key.startswith(b"tl:a:") for key in keys)


async def test_a_flood_of_one_limits_keys_pushes_out_no_other_limits_counters() -> None:
    counters = LocalCounters(clock=FakeClock(), max_entries=100)
    month = Limit(name="month", amount=1, seconds=30 * 86_400)
    for number in range(1_000):
        await counters.hit(month, str(number))
    await counters.hit(LIMIT, "a")
    for number in range(1_000):
        await counters.hit(month, f"more {number}")
    assert await counters.count(LIMIT, "a") == 1
    assert (counters.kept, counters.evicted) == (101, 1_900)


async def test_a_flood_of_distinct_keys_meets_a_bound_and_pushes_out_what_expires_soonest() -> None:
    clock = FakeClock()
    storage = BoundedMemoryStorage(clock=clock, max_entries=100)
    await storage.incr("a month", 30 * 86_400)
    await storage.incr("a day", 86_400)
    for number in range(10_000):
        await storage.incr(f"minute {number}", 60)
        assert len(storage) <= 100
    assert await storage.get("a month") == await storage.get("a day") == 1
    assert storage.evicted == 10_000 - 98
    clock.advance(61)
    await storage.incr("later", 60)
    assert len(storage) == 3
    assert storage.evicted == 10_000 - 98, "what was over anyway was not pushed out"


async def test_clearing_over_and_over_does_not_fill_memory() -> None:
    storage = BoundedMemoryStorage(clock=FakeClock(), max_entries=100)
    for _ in range(10_000):
        await storage.incr("a", 60)
        await storage.clear("a")
    assert len(storage._expiries) < 2_000
    await storage.incr("a", 60)
    assert await storage.get("a") == 1


async def test_a_counter_that_began_anew_does_not_end_with_the_one_before_it() -> None:
    clock = FakeClock()
    storage = BoundedMemoryStorage(clock=clock, max_entries=100)
    await storage.incr("a", 60)
    await storage.clear("a")
    clock.advance(30)
    await storage.incr("a", 60)
    clock.advance(40)
    await storage.incr("b", 60)
    assert await storage.get("a") == 1
    clock.advance(20)
    assert await storage.get("a") == 0


async def test_a_jump_of_the_wall_clock_ends_no_wait() -> None:
    clock = FakeClock()
    counters = LocalCounters(clock=clock, max_entries=100)
    for _ in range(3):
        await counters.hit(LIMIT, "a")
    clock.jump(86_400)
    hit = await counters.hit(LIMIT, "a")
    assert (hit.within, hit.seconds_left) == (False, 60)
