"""One watch stream: replay, then the tail's rows and a pong for every ping, in one order.

A watcher may be a stranger to good manners: it gets a bounded time for its first message, and one that does not read
is cut off. Its credential is checked while the stream lasts by `OpenStreams`.

The order is the point. Replayed rows, tailed rows and pongs leave through one subscription, so a pong with
revision R can only be read by the watcher after every row up to R.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any, Final

from flowless.domain.fields import Fields
from flowless.domain.revocations import LogHead, Revocation
from flowless.grpc import convert, figures
from flowless.grpc.authorization import Caller
from flowless.ports.stores import RevocationLog
from flowless.services.barriers import Barriers
from flowless.services.bridges import Bridges
from flowless.services.revocation_tail import PAGE, Asked, GoAway, Item, Pong, RevocationTail, Subscription
from flowless.services.watchers import Watcher, Watchers
from trust_core import logs
from trust_core.clock import Clock
from trust_core.errors import Reason, TrustError
from trustlayer.v1 import bridge_pb2 as pb

_FIRST_MESSAGE_SECONDS: Final = 5.0
_CLOSING_SECONDS: Final = 5.0


class WatchStream:
    """Serves one stream. Everything happens in the event loop; the pinging half is a task of its own."""

    def __init__(
        self,
        *,
        tail: RevocationTail,
        log: RevocationLog,
        bridges: Bridges,
        watchers: Watchers,
        barriers: Barriers,
        longest_staleness: timedelta,
        clock: Clock,
        caller: Caller,
    ) -> None:
        self._tail = tail
        self._log = log
        self._bridges = bridges
        self._watchers = watchers
        self._barriers = barriers
        self._longest_staleness = longest_staleness
        self._clock = clock
        self._caller = caller
        self._logger: Any = logs.get_logger("flowless")

    async def serve(
        self, requests: AsyncIterator[pb.WatchRevocationsRequest]
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        """Answer one stream until the watcher leaves, falls behind, is refused, or this replica stops."""
        start = await _first(requests, self._longest_staleness)
        # A watcher that comes from another replica may be ahead of this one's tail: catch up before judging it.
        if start.last_revision > self._tail.position.revision:
            await self._tail.read_after_now()
        subscription = self._tail.subscribe(bridge_id=self._caller.bridge.id)
        watcher = self._watchers.arrive(
            bridge_id=self._caller.bridge.id,
            instance=start.instance,
            watcher_id=start.watcher_id,
            staleness_ns=start.max_staleness.ToNanoseconds(),
            applied_revision=start.last_revision if start.log_id == subscription.start.log_id else 0,
        )
        admitted = asyncio.Event()
        pinging = asyncio.ensure_future(self._answer_pings(requests, subscription, watcher, admitted))
        # Its end is noticed by the next `take`. A stream that is stuck in sending never gets there and is cut.
        subscription.cut_when_closed(after_seconds=_CLOSING_SECONDS)
        try:
            # After subscribing: that the bridge was revoked is either seen here or closes the subscription.
            await self._require_good_credential()
            # Before its first ping is answered, everybody who waits has to know how long to wait for it.
            await self._barriers.admit(start.max_staleness.ToTimedelta())
            admitted.set()
            head = subscription.start
            reset = not await self._can_replay(start, head)
            after = head.revision if reset else start.last_revision
            yield pb.WatchRevocationsResponse(ready=pb.WatchReady(log_id=head.log_id, reset=reset, revision=after))
            async for batch in self._replay(after, until=head.revision):
                yield _batch(batch)
            if self._barriers.asked > watcher.applied_revision:
                yield _asked(self._barriers.asked)
            while True:
                items = await subscription.take()
                for response in _responses(items):
                    yield response
                if any(isinstance(item, GoAway) for item in items):
                    return
        except _WatcherLeftError:
            return
        finally:
            self._tail.unsubscribe(subscription)
            self._watchers.leave(watcher, now_ns=self._clock.elapsed_ns())
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)

    async def _require_good_credential(self) -> None:
        caller = self._caller
        if not await self._bridges.still_accepts(caller.bridge.id, caller.secret_digest, caller.certificate):
            raise TrustError(Reason.BRIDGE_CREDENTIAL_REFUSED, "the bridge credential is no longer valid")

    async def _can_replay(self, start: pb.WatchStart, head: LogHead) -> bool:
        if start.log_id != head.log_id:
            return False
        if start.last_revision > head.revision:
            # It has seen rows of this very log that the log does not have.
            self._logger.error(
                "a watcher is ahead of the log: was the database restored from a backup? "
                "stop the replicas and run `flowless after-restore`",
                watcher_revision=start.last_revision,
                revision=head.revision,
            )
            return False
        compacted_through = (await self._log.head()).compacted_through
        return start.last_revision >= compacted_through

    async def _replay(self, after: int, *, until: int) -> AsyncIterator[list[Revocation]]:
        while after < until:
            rows = await self._log.after(after, until=until, limit=PAGE)
            if not rows or rows[0].revision != after + 1:
                raise TrustError(Reason.DRAINING, "the log was compacted meanwhile; open a new stream")
            yield list(rows)
            after = rows[-1].revision

    async def _answer_pings(
        self,
        requests: AsyncIterator[pb.WatchRevocationsRequest],
        subscription: Subscription,
        watcher: Watcher,
        admitted: asyncio.Event,
    ) -> None:
        try:
            await admitted.wait()
            async for request in requests:
                kind = request.WhichOneof("message")
                if kind == "applied":
                    self._watchers.applied(watcher, applied_revision=request.applied.applied_revision)
                    continue
                if kind != "ping":
                    raise _violation("message", "a ping after the start")
                # Noted when it arrives: its lease, which runs from when it was sent, ends no later.
                known = self._watchers.pinged(
                    watcher, applied_revision=request.ping.applied_revision, now_ns=self._clock.elapsed_ns()
                )
                if not known:
                    raise TrustError(Reason.DRAINING, "this watcher has come by another stream; open a new one")
                if request.ping.HasField("figures"):
                    watcher.figures = figures.from_message(request.ping.figures)
                head = await self._tail.read_after_now()
                # The tail has put every row up to `head` into the subscription before it came back.
                subscription.put(Pong(request.ping.nonce, head.revision))
        except TrustError as error:
            subscription.close(error)
        except asyncio.CancelledError:
            raise
        except Exception:
            subscription.close(TrustError(Reason.INTERNAL, "the watch stream failed; open a new one"))
            raise
        else:
            subscription.close(_WatcherLeftError())


class _WatcherLeftError(TrustError):
    """The watcher half-closed the stream: it wants no more."""

    def __init__(self) -> None:
        super().__init__(Reason.DRAINING, "the watcher left")


def _violation(field: str, description: str) -> TrustError:
    fields = Fields()
    fields.add(field, description)
    try:
        fields.refuse()
    except TrustError as error:
        return error
    raise AssertionError("refuse raises")


async def _first(requests: AsyncIterator[pb.WatchRevocationsRequest], longest_staleness: timedelta) -> pb.WatchStart:
    try:
        async with asyncio.timeout(_FIRST_MESSAGE_SECONDS):
            request = await anext(requests, None)
    except TimeoutError:
        request = None
    if request is None or request.WhichOneof("message") != "start":
        raise _violation("start", "required as the first message")
    fields = Fields()
    if request.start.last_revision < 0:
        fields.add("start.last_revision", "0 or more")
    fields.text("start.instance", request.start.instance, most=128)
    fields.text("start.log_id", request.start.log_id, most=64)
    fields.text("start.watcher_id", request.start.watcher_id, most=64)
    staleness = convert.time_delta("start.max_staleness", request.start.max_staleness, fields)
    if not timedelta(0) <= staleness <= longest_staleness:
        fields.add("start.max_staleness", f"0 to {longest_staleness.total_seconds():.0f} s, as configured")
    fields.refuse()
    return request.start


def _responses(items: Iterable[Item]) -> list[pb.WatchRevocationsResponse]:
    responses: list[pb.WatchRevocationsResponse] = []
    rows: list[Revocation] = []
    for item in items:
        if isinstance(item, Revocation):
            rows.append(item)
            continue
        if rows:
            responses.append(_batch(rows))
            rows = []
        if isinstance(item, Pong):
            responses.append(pb.WatchRevocationsResponse(pong=pb.WatchPong(nonce=item.nonce, revision=item.revision)))
        elif isinstance(item, Asked):
            responses.append(_asked(item.revision))
        elif isinstance(item, GoAway):
            responses.append(pb.WatchRevocationsResponse(go_away=pb.WatchGoAway()))
    if rows:
        responses.append(_batch(rows))
    return responses


def _asked(revision: int) -> pb.WatchRevocationsResponse:
    return pb.WatchRevocationsResponse(barrier=pb.WatchBarrier(revision=revision))


def _batch(rows: Iterable[Revocation]) -> pb.WatchRevocationsResponse:
    return pb.WatchRevocationsResponse(revocations=pb.RevocationBatch(revocations=[_revocation(row) for row in rows]))


def _revocation(row: Revocation) -> pb.Revocation:
    if row.subject == "session":
        return pb.Revocation(revision=row.revision, session_digest=bytes.fromhex(row.key))
    if row.subject == "user":
        return pb.Revocation(revision=row.revision, user_id=row.key)
    if row.subject == "bridge":
        return pb.Revocation(revision=row.revision)
    # Written by a newer Flowless: to pass it on as nothing would leave caches with what it revokes.
    raise TrustError(Reason.DRAINING, "the log holds a row that this replica does not know; connect to a newer one")
