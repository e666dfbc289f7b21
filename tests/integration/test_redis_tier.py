"""The Redis tier over a real Redis that fails, forgets, fills up and lies."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from flowless.adapters.redis.connect import connect
from flowless.adapters.redis.payload import PayloadSealer
from flowless.adapters.redis.tier import TOMBSTONE_SECONDS, RedisSessionTier
from flowless.domain.sessions import SessionRead
from tests.support.report_log import log_into_report
from tests.support.stores import fresh_digest, new_session, new_user
from tools.redis_server import RedisServer
from trust_core.clock import SystemClock

LOG = "0" * 32
KEY = b"k" * 32
PATIENT_SECONDS = 5.0
ENOUGH = 20.0


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    log_into_report(level="error")
    yield
    log_into_report()


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    with shared.client() as client:
        client.flushall()
    return shared


@asynccontextmanager
async def opened(
    url: str, *, timeout_seconds: float = PATIENT_SECONDS, password: str | None = None
) -> AsyncIterator[RedisSessionTier]:
    tier = RedisSessionTier(
        client=connect(url, max_connections=64, password=password),
        sealer=PayloadSealer(keys=[KEY]),
        timeout_seconds=timeout_seconds,
        clock=SystemClock(),
    )
    yield tier
    await tier.close()


def read(revision: int = 1) -> tuple[bytes, SessionRead]:
    user = new_user()
    session = new_session(user.id)
    return session.digest, SessionRead(revision=revision, session=session, user=user, user_epoch=1)


async def filled(tier: RedisSessionTier, revision: int = 1) -> tuple[bytes, SessionRead]:
    digest, known = read(revision)
    await tier.fill(digest, known, log_id=LOG, ttl_seconds=60)
    assert await tier.get(digest, log_id=LOG) == known
    return digest, known


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(ENOUGH):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_a_session_is_found_until_its_time_is_over(server: RedisServer) -> None:
    async with opened(server.url) as tier:
        digest, known = read()
        assert await tier.get(digest, log_id=LOG) is None
        await tier.fill(digest, known, log_id=LOG, ttl_seconds=1.5)
        assert await tier.get(digest, log_id=LOG) == known
        with server.client() as client:
            assert [0 < client.pttl(key) <= 1500 for key in client.scan_iter()] == [True]
        await tier.fill(fresh_digest(), known, log_id=LOG, ttl_seconds=0)
        with server.client() as client:
            assert client.dbsize() == 1
        assert (tier.stats.hits, tier.stats.misses, tier.stats.fills) == (1, 1, 1)


async def test_a_fill_never_overwrites_a_later_one(server: RedisServer) -> None:
    async with opened(server.url) as tier:
        digest, known = await filled(tier, revision=5)
        await tier.fill(digest, replace(known, revision=4), log_id=LOG, ttl_seconds=60)
        assert await tier.get(digest, log_id=LOG) == known
        later = replace(known, revision=6)
        await tier.fill(digest, later, log_id=LOG, ttl_seconds=60)
        assert await tier.get(digest, log_id=LOG) == later


async def test_a_tombstone_refuses_every_fill_from_before_it_and_outlives_it(server: RedisServer) -> None:
    async with opened(server.url) as tier:
        digest, known = await filled(tier, revision=5)
        await tier.bury(digest, 7, log_id=LOG)
        assert await tier.get(digest, log_id=LOG) is None
        for revision in (1, 5, 7):
            await tier.fill(digest, replace(known, revision=revision), log_id=LOG, ttl_seconds=600)
            assert await tier.get(digest, log_id=LOG) is None
        await tier.bury(digest, 6, log_id=LOG)
        with server.client() as client:
            (key,) = client.keys()
            assert client.hgetall(key) == {b"r": b"7"}
            assert TOMBSTONE_SECONDS * 900 < client.pttl(key) <= TOMBSTONE_SECONDS * 1000


async def test_a_burial_before_any_fill_holds(server: RedisServer) -> None:
    async with opened(server.url) as tier:
        digest, known = read(revision=2)
        await tier.bury(digest, 3, log_id=LOG)
        await tier.fill(digest, known, log_id=LOG, ttl_seconds=60)
        assert await tier.get(digest, log_id=LOG) is None


async def test_whoever_can_write_to_redis_can_neither_forge_nor_alter_nor_move_nor_read_a_session(
    server: RedisServer,
) -> None:
    async with opened(server.url) as tier:
        digest, known = await filled(tier)
        victim, _ = await filled(tier)
        with server.client() as client:
            everything = b"".join(key + b"".join(client.hgetall(key).values()) for key in client.scan_iter())
            assert known.user is not None
            for text in (known.user.email, known.user.id, "Lovelace", "admin"):
                assert text.encode() not in everything
            mine, other = (f"tl:{LOG}:s:{d.hex()}" for d in (digest, victim))
            sealed = client.hget(mine, "p")
            for lie in (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", b"{}", client.hget(other, "p")):
                client.hset(mine, "p", lie)
                assert await tier.get(digest, log_id=LOG) is None
            assert tier.stats.rejected == 4
            client.hset(mine, "p", sealed)
            client.hset(mine, "r", 10**9)
            found = await tier.get(digest, log_id=LOG)
            assert found is not None
            assert found.revision == known.revision, "what stands beside the seal is not believed"
            client.set(other, "a text")
            assert await tier.get(victim, log_id=LOG) is None
            assert not tier.breaker_open


async def test_a_redis_that_was_flushed_has_misses(server: RedisServer) -> None:
    async with opened(server.url) as tier:
        digest, _ = await filled(tier)
        with server.client() as client:
            client.flushall()
        assert await tier.get(digest, log_id=LOG) is None
        await filled(tier)


async def test_a_full_or_read_only_redis_is_read_and_costs_nothing_else(server: RedisServer) -> None:
    async with opened(server.url) as tier:
        digest, known = await filled(tier)
        with server.client() as client:
            client.config_set("maxmemory", "1mb")
            client.config_set("maxmemory-policy", "noeviction")
            client.execute_command("DEBUG", "SLEEP", "0")
            fresh, other = read()
            client.config_set("maxmemory", "1")
            await tier.fill(fresh, other, log_id=LOG, ttl_seconds=60)
            assert await tier.get(fresh, log_id=LOG) is None
            assert await tier.get(digest, log_id=LOG) == known
            client.config_set("maxmemory", "0")
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            await tier.fill(fresh, other, log_id=LOG, ttl_seconds=60)
            await tier.bury(digest, 9, log_id=LOG)
            assert await tier.get(fresh, log_id=LOG) is None
            client.execute_command("REPLICAOF", "NO", "ONE")
            assert tier.stats.failures == 3
            assert not tier.breaker_open
            await tier.fill(fresh, other, log_id=LOG, ttl_seconds=60)
            assert await tier.get(fresh, log_id=LOG) == other


async def test_a_redis_that_is_killed_is_skipped_and_used_again_when_it_is_back() -> None:
    with RedisServer() as server:
        async with opened(server.url) as tier:
            digest, _ = await filled(tier)
            server.kill()
            for _ in range(10):
                assert await tier.get(digest, log_id=LOG) is None
            assert tier.breaker_open
            assert tier.stats.skipped > 0
            server.start()

            async def back() -> bool:
                await tier.fill(digest, read()[1], log_id=LOG, ttl_seconds=60)
                return not tier.breaker_open

            await until(back)
            await filled(tier)


async def test_a_redis_that_hangs_is_waited_for_a_few_milliseconds_and_never_mixes_answers_up() -> None:
    with RedisServer() as server:
        async with opened(server.url, timeout_seconds=0.2) as tier:
            known = dict([await filled(tier) for _ in range(20)])
            server.pause()
            began = time.monotonic()
            for digest in known:
                assert await tier.get(digest, log_id=LOG) is None
            assert time.monotonic() - began < 20 * 0.2, "after a few, the breaker spares the wait"
            assert tier.breaker_open
            server.resume()

            async def back() -> bool:
                await tier.get(next(iter(known)), log_id=LOG)
                return not tier.breaker_open

            await until(back)

            async def all_right() -> bool:
                found = await asyncio.gather(*(tier.get(digest, log_id=LOG) for digest in known))
                # On a busy machine some may not come in time, but none may be another's.
                assert all(got in (None, right) for got, right in zip(found, known.values(), strict=True))
                return None not in found

            await until(all_right)
            assert tier.stats.rejected == 0


async def test_callers_that_give_up_leave_answers_of_others_alone(server: RedisServer) -> None:
    async with opened(server.url) as tier:
        known = dict([await filled(tier) for _ in range(20)])
        for _ in range(20):
            callers = [asyncio.ensure_future(tier.get(digest, log_id=LOG)) for digest in known]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for caller in callers[::2]:
                caller.cancel()
            results = await asyncio.gather(*callers, return_exceptions=True)
            for result, expected in zip(results, known.values(), strict=True):
                assert isinstance(result, asyncio.CancelledError) or result == expected
        assert tier.stats.rejected == 0


async def test_more_calls_at_once_than_connections_skip_redis(server: RedisServer) -> None:
    async with opened(server.url) as tier:
        digest, known = await filled(tier)
        found = await asyncio.gather(*(tier.get(digest, log_id=LOG) for _ in range(500)))
        assert {entry is None for entry in found} == {False, True}
        assert tier.stats.skipped > 0
        assert await tier.get(digest, log_id=LOG) == known


async def test_a_unix_socket_and_a_cluster_and_sentinels_work_alike() -> None:
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
            async with opened(url) as tier:

                async def works(tier: RedisSessionTier = tier) -> bool:
                    digest, known = read()
                    await tier.fill(digest, known, log_id=LOG, ttl_seconds=60)
                    return await tier.get(digest, log_id=LOG) == known

                await until(works)
                digest, _ = await filled(tier)
                await tier.bury(digest, 2, log_id=LOG)
                assert await tier.get(digest, log_id=LOG) is None


async def test_a_password_beside_the_url_opens_a_server_a_cluster_and_what_sentinels_watch() -> None:
    with (
        RedisServer() as one,
        RedisServer("--cluster-enabled", "yes") as cluster,
        RedisServer("--sentinel") as watcher,
    ):
        with cluster.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        with watcher.client() as client:
            client.execute_command("SENTINEL", "MONITOR", "main", "127.0.0.1", str(one.port), "1")
            client.execute_command("SENTINEL", "SET", "main", "auth-pass", "open-sesame")
        for guarded in (one, cluster):
            with guarded.client() as client:
                client.config_set("requirepass", "open-sesame")
        for url in (
            one.url,
            f"redis+cluster://127.0.0.1:{cluster.port}",
            f"redis+sentinel://127.0.0.1:{watcher.port}/main",
        ):
            async with opened(url, password="open-sesame") as tier:

                async def works(tier: RedisSessionTier = tier) -> bool:
                    digest, known = read()
                    await tier.fill(digest, known, log_id=LOG, ttl_seconds=60)
                    return await tier.get(digest, log_id=LOG) == known

                await until(works)
        async with opened(one.url, password="close-sesame") as tier:
            digest, known = read()
            await tier.fill(digest, known, log_id=LOG, ttl_seconds=60)
            assert await tier.get(digest, log_id=LOG) is None
