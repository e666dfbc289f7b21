"""What a watch stream does where the log changes under its hands; the rest is seen from outside in `tests/e2e`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from flowless.domain.bridges import Scope
from flowless.domain.replicas import LONGEST_STALENESS
from flowless.grpc.authorization import Caller
from flowless.grpc.watch import WatchStream
from flowless.services.barriers import Barriers
from flowless.services.bridge_uses import NoUseRecorder
from flowless.services.bridges import Bridges
from flowless.services.revocation_tail import PAGE, RevocationTail
from flowless.services.watchers import Watchers
from tests.support.clock import FakeClock
from tests.support.scripted_log import ScriptedLog
from tests.support.scripted_replicas import ScriptedReplicas
from tests.support.stores import BY, counting_random, sqlite
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import digest
from trustlayer.v1 import bridge_pb2 as pb

NEVER = 3_600.0
ENOUGH = 20.0


class Requests:
    """What the watcher sends."""

    def __init__(self, **start: Any) -> None:
        self.queue: asyncio.Queue[pb.WatchRevocationsRequest | Exception] = asyncio.Queue()
        self.queue.put_nowait(pb.WatchRevocationsRequest(start=pb.WatchStart(**start)))

    async def __aiter__(self) -> AsyncIterator[pb.WatchRevocationsRequest]:
        while True:
            request = await self.queue.get()
            if isinstance(request, Exception):
                raise request
            yield request


class Responses:
    """What the watcher is told."""

    def __init__(self, stream: WatchStream, requests: Requests) -> None:
        self._responses = stream.serve(aiter(requests))

    async def next(self) -> pb.WatchRevocationsResponse:
        async with asyncio.timeout(ENOUGH):
            return await anext(self._responses)

    async def failure(self) -> Reason:
        with pytest.raises(TrustError) as caught:
            await self.next()
        return caught.value.reason


Watching = Callable[[ScriptedLog], AbstractAsyncContextManager[tuple[WatchStream, RevocationTail]]]


@pytest.fixture
def replicas() -> ScriptedReplicas:
    return ScriptedReplicas()


@pytest.fixture
def watching(tmp_path: Path, replicas: ScriptedReplicas) -> Watching:
    """Makes a stream of a bridge that is accepted, over a running tail."""

    @asynccontextmanager
    async def made(log: ScriptedLog) -> AsyncIterator[tuple[WatchStream, RevocationTail]]:
        clock = FakeClock()
        watchers = Watchers()
        barriers = Barriers(registry=replicas, watchers=watchers, clock=clock, replica_id="replica", name="replica")
        tail = RevocationTail(
            log=log,
            membership=barriers,
            clock=clock,
            poll_interval=NEVER,
            min_spacing=0.0,
            max_subscriptions=10,
            max_subscriptions_per_bridge=10,
        )
        await tail.start()
        running = asyncio.create_task(tail.run())
        async with sqlite(tmp_path) as stores:
            bridges = Bridges(store=stores.bridges, uses=NoUseRecorder(), clock=clock, random=counting_random)
            new = await bridges.create("shop", frozenset(Scope), by=BY)
            caller = Caller(new.bridge, digest(new.secret))
            stream = WatchStream(
                tail=tail,
                log=log,
                bridges=bridges,
                watchers=watchers,
                barriers=barriers,
                longest_staleness=LONGEST_STALENESS,
                clock=clock,
                caller=caller,
            )
            yield stream, tail
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    return made


async def test_a_watcher_that_is_ahead_of_this_replica_does_not_have_to_start_over(watching: Watching) -> None:
    """It comes from a replica that has read rows which this one has not polled yet."""
    log = ScriptedLog()
    async with watching(log) as (stream, tail):
        log.append(count=3)
        responses = Responses(stream, Requests(log_id=log.log_id, last_revision=3))
        assert (await responses.next()).ready == pb.WatchReady(log_id=log.log_id, reset=False, revision=3)
        assert tail.position.revision == 3


async def test_rows_that_are_compacted_while_they_are_replayed_end_the_stream(watching: Watching) -> None:
    log = ScriptedLog()
    log.append(count=2 * PAGE)
    async with watching(log) as (stream, tail):
        responses = Responses(stream, Requests(log_id=log.log_id, last_revision=0))
        assert not (await responses.next()).ready.reset
        assert len((await responses.next()).revocations.revocations) == PAGE
        log.compacted_through = 2 * PAGE
        assert await responses.failure() is Reason.DRAINING
        assert tail.watchers == 0


async def test_rows_that_are_written_while_others_are_replayed_come_behind_them(watching: Watching) -> None:
    log = ScriptedLog()
    log.append(count=2 * PAGE)
    async with watching(log) as (stream, tail):
        responses = Responses(stream, Requests(log_id=log.log_id, last_revision=0))
        await responses.next()
        log.append(count=5)
        await tail.read_after_now()
        revisions: list[int] = []
        while len(revisions) < 2 * PAGE + 5:
            rows: Sequence[pb.Revocation] = (await responses.next()).revocations.revocations
            revisions += [row.revision for row in rows]
        assert revisions == list(range(1, 2 * PAGE + 6))


async def test_a_stream_whose_requests_fail_is_ended_in_our_words(watching: Watching) -> None:
    log = ScriptedLog()
    async with watching(log) as (stream, tail):
        requests = Requests()
        responses = Responses(stream, requests)
        await responses.next()
        requests.queue.put_nowait(ZeroDivisionError("defect"))
        assert await responses.failure() is Reason.INTERNAL
        assert tail.watchers == 0


async def test_a_row_of_a_kind_that_this_replica_does_not_know_ends_the_stream_and_is_not_passed_on_as_nothing(
    watching: Watching,
) -> None:
    log = ScriptedLog()
    async with watching(log) as (stream, tail):
        responses = Responses(stream, Requests())
        await responses.next()
        log.append("tenant", "t_1")  # type: ignore[arg-type]
        tail.wake()
        assert await responses.failure() is Reason.DRAINING


async def test_storage_that_fails_during_a_ping_ends_the_stream(watching: Watching) -> None:
    log = ScriptedLog()
    async with watching(log) as (stream, _):
        requests = Requests()
        responses = Responses(stream, requests)
        await responses.next()
        log.error = TrustError(Reason.STORAGE_UNAVAILABLE, "locked")
        requests.queue.put_nowait(pb.WatchRevocationsRequest(ping=pb.WatchPing(nonce=1)))
        assert await responses.failure() is Reason.STORAGE_UNAVAILABLE


async def test_a_pong_never_overtakes_a_row_that_it_covers(watching: Watching) -> None:
    log = ScriptedLog()
    async with watching(log) as (stream, _):
        requests = Requests()
        responses = Responses(stream, requests)
        await responses.next()
        told: list[int] = []
        for nonce in range(1, 21):
            log.append()
            requests.queue.put_nowait(pb.WatchRevocationsRequest(ping=pb.WatchPing(nonce=nonce)))
            rows = (await responses.next()).revocations.revocations
            told += [row.revision for row in rows]
            pong = (await responses.next()).pong
            assert (pong.nonce, pong.revision, told[-1]) == (nonce, nonce, nonce)


STORAGE_FAILS = TrustError(Reason.STORAGE_UNAVAILABLE, "gone")


async def test_a_watcher_gets_no_lease_before_everybody_knows_how_long_to_wait_for_it(
    watching: Watching, replicas: ScriptedReplicas
) -> None:
    replicas.error = STORAGE_FAILS
    async with watching(ScriptedLog()) as (stream, tail):
        requests = Requests(max_staleness=Duration(seconds=30))
        requests.queue.put_nowait(pb.WatchRevocationsRequest(ping=pb.WatchPing(nonce=1)))
        responses = Responses(stream, requests)
        assert await responses.failure() is Reason.STORAGE_UNAVAILABLE
        assert tail.watchers == 0
    assert replicas.records == {}


async def test_a_ping_that_came_early_is_answered_by_a_read_from_after_that(
    watching: Watching, replicas: ScriptedReplicas
) -> None:
    """An older proof would give a lease which nobody who waits knows the length of."""
    log = ScriptedLog()
    async with watching(log) as (stream, _):
        replicas.gate.clear()
        requests = Requests(max_staleness=Duration(seconds=30))
        requests.queue.put_nowait(pb.WatchRevocationsRequest(ping=pb.WatchPing(nonce=1)))
        responses = Responses(stream, requests)
        first = asyncio.create_task(responses.next())
        await asyncio.sleep(0.05)
        log.append()
        replicas.gate.set()
        assert (await first).WhichOneof("message") == "ready"
        assert len((await responses.next()).revocations.revocations) == 1
        assert (await responses.next()).pong.revision == 1


async def test_a_stream_whose_watcher_came_by_another_gives_no_lease(watching: Watching) -> None:
    """In whichever order the two starts arrive: of the lease that this stream got, nobody would know."""
    log = ScriptedLog()
    async with watching(log) as (stream, _):
        start = {"max_staleness": Duration(seconds=2), "watcher_id": "w"}
        live = Requests(**start)
        live.queue.put_nowait(pb.WatchRevocationsRequest(ping=pb.WatchPing(nonce=1)))
        responses = Responses(stream, live)
        assert (await responses.next()).WhichOneof("message") == "ready"
        assert (await responses.next()).pong.nonce == 1
        given_up = Responses(stream, Requests(**start))
        assert (await given_up.next()).WhichOneof("message") == "ready"
        live.queue.put_nowait(pb.WatchRevocationsRequest(ping=pb.WatchPing(nonce=2)))
        assert await responses.failure() is Reason.DRAINING


async def test_a_watcher_that_asks_for_longer_than_is_allowed_is_refused(watching: Watching) -> None:
    async with watching(ScriptedLog()) as (stream, _):
        responses = Responses(stream, Requests(max_staleness=Duration(seconds=601)))
        assert await responses.failure() is Reason.INVALID_FIELD


async def test_a_watcher_is_asked_behind_its_replay_when_somebody_waits_already(watching: Watching) -> None:
    log = ScriptedLog()
    log.append(count=3)
    log.barrier_revision = 2
    async with watching(log) as (stream, tail):
        await tail.read_after_now()
        responses = Responses(stream, Requests(log_id=log.log_id, last_revision=1))
        assert (await responses.next()).WhichOneof("message") == "ready"
        assert len((await responses.next()).revocations.revocations) == 2
        assert (await responses.next()).barrier.revision == 2


async def test_one_that_has_applied_it_is_not_asked(watching: Watching) -> None:
    log = ScriptedLog()
    log.append(count=3)
    log.barrier_revision = 2
    async with watching(log) as (stream, tail):
        await tail.read_after_now()
        requests = Requests(log_id=log.log_id, last_revision=3)
        requests.queue.put_nowait(pb.WatchRevocationsRequest(ping=pb.WatchPing(nonce=7, applied_revision=3)))
        responses = Responses(stream, requests)
        assert (await responses.next()).WhichOneof("message") == "ready"
        assert (await responses.next()).pong.nonce == 7
