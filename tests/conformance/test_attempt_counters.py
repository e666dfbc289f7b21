"""One suite for every storage of counters of attempts."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from flowless.adapters.attempts.counters import LocalCounters, RedisAttemptStorage, StorageCounters
from flowless.domain.attempts import Limit
from tests.support.clock import FakeClock
from tools.redis_server import RedisServer
from trust_core.clock import SystemClock

LIMIT = Limit(name="test", amount=3, seconds=60)


class Later(Protocol):
    """Lets time pass for the counters under test."""

    def __call__(self, seconds: float) -> None: ...


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def _age(server: RedisServer, seconds: float) -> None:
    """Let what Redis holds expire as much earlier."""
    with server.client() as client:
        for key in client.scan_iter():
            left = client.pttl(key) - round(seconds * 1000)
            client.pexpire(key, left) if left > 0 else client.delete(key)


Pair = tuple[LocalCounters | StorageCounters, Later]


@pytest.fixture(params=["memory", "redis"])
async def counted(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    if request.param == "memory":
        clock = FakeClock()
        yield LocalCounters(clock=clock, max_entries=1_000), clock.advance
        return
    server: RedisServer = request.getfixturevalue("redis")
    with server.client() as client:
        client.flushall()
    connected = Redis(connection_pool=BlockingConnectionPool.from_url(server.url, max_connections=8, timeout=20))
    storage = RedisAttemptStorage(client=connected)
    yield StorageCounters(storage=storage, clock=SystemClock()), lambda seconds: _age(server, seconds)
    await connected.aclose(close_connection_pool=True)


async def test_as_many_are_within_as_the_limit_says_and_then_none_until_its_time_is_over(counted: Pair) -> None:
    counters, later = counted
    assert [(await counters.hit(LIMIT, "a")).within for _ in range(5)] == [True] * 3 + [False] * 2
    assert 1 <= (await counters.hit(LIMIT, "a")).seconds_left <= 60
    later(61)
    assert (await counters.hit(LIMIT, "a")).within


async def test_of_any_number_at_once_as_many_are_within_as_the_limit_says(counted: Pair) -> None:
    counters, _ = counted
    hits = await asyncio.gather(*(counters.hit(LIMIT, "a") for _ in range(200)))
    assert sum(hit.within for hit in hits) == 3


async def test_refused_hits_do_not_make_the_wait_longer(counted: Pair) -> None:
    counters, later = counted
    for _ in range(4):
        await counters.hit(LIMIT, "a")
    later(40)
    assert (await counters.hit(LIMIT, "a")).seconds_left <= 20


async def test_what_is_given_back_can_be_taken_again(counted: Pair) -> None:
    counters, _ = counted
    for _ in range(3):
        await counters.hit(LIMIT, "a")
    await counters.hit(LIMIT, "a", cost=-1)
    assert await counters.count(LIMIT, "a") == 2
    assert [(await counters.hit(LIMIT, "a")).within for _ in range(2)] == [True, False]


async def test_keys_and_limits_are_counted_apart(counted: Pair) -> None:
    counters, _ = counted
    for _ in range(3):
        await counters.hit(LIMIT, "a")
    other = Limit(name="other", amount=3, seconds=60)
    assert (await counters.hit(LIMIT, "b")).within
    assert (await counters.hit(other, "a")).within
    assert await counters.count(other, "b") == 0


async def test_a_cleared_counter_begins_anew(counted: Pair) -> None:
    counters, _ = counted
    for _ in range(4):
        await counters.hit(LIMIT, "a")
    await counters.clear(LIMIT, "a")
    assert await counters.count(LIMIT, "a") == 0
    assert (await counters.hit(LIMIT, "a")).within
    await counters.clear(LIMIT, "never counted")


async def test_a_counter_keeps_its_count_when_the_amount_and_the_time_of_its_limit_change(counted: Pair) -> None:
    counters, _ = counted
    for _ in range(3):
        await counters.hit(LIMIT, "a")
    assert (await counters.hit(Limit(name="test", amount=4, seconds=7), "a")).within
    assert not (await counters.hit(Limit(name="test", amount=4, seconds=7), "a")).within


async def test_a_wait_is_never_told_as_longer_than_its_limit(counted: Pair) -> None:
    counters, _ = counted
    for _ in range(3):
        await counters.hit(LIMIT, "a")
    assert (await counters.hit(Limit(name="test", amount=1, seconds=5), "a")).seconds_left == 5
