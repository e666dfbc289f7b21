"""Keeps one revocation stream to Flowless alive, and the cache and the lease in step with it.

Connect, replay from the last applied revision, ping, and start again when anything ends. While there is no stream
the lease simply runs out; nothing here extends it but a pong. When upstream breaks the protocol the cache is
dropped with the lease, since what was applied cannot be trusted. A go-away opens the next stream at once and leaves
the lease as it is. A stream that is silent for `max_staleness` is cut: its lease would have run out anyway.

Attempts back off exponentially with jitter up to a cap that is small beside a restart of Flowless, so many sidecars
do not return at the same moment and none returns late.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration

from bridge_sidecar.lease import Lease
from bridge_sidecar.session_cache import Revocation, SessionCache
from bridge_sidecar.upstream import WatchCall
from bridge_sidecar.watch_protocol import Ping, ProtocolViolationError, WatchFigures, WatchProtocol, WatchTiming
from trust_core import logs
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import Reason, TrustError
from trustlayer.v1 import bridge_pb2


class WatchState(IntEnum):
    """Numbers as in `trustlayer.v1.WatchState`; a test holds the two together."""

    DISCONNECTED = 1
    CONNECTING = 2
    LIVE = 3
    REFUSED = 4


class WatchSource(Protocol):
    """Where the stream comes from."""

    def watch(self) -> WatchCall:
        """Open a stream."""
        ...

    def explain(self, error: grpc.RpcError) -> TrustError:
        """Say what a stream's error means."""
        ...

    @property
    def watch_has_moved(self) -> bool:
        """Whether streams are opened elsewhere now than the last one was."""
        ...


class FiguresSource(Protocol):
    """What is told of what this sidecar has counted."""

    def message(self) -> bridge_pb2.SidecarFigures:
        """Make the message, as of now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Capped exponential backoff with jitter between half and the whole of each step."""

    first_seconds: float = 0.1
    cap_seconds: float = 2.0

    def delay_seconds(self, attempt: int, random: float) -> float:
        """Delay before the attempt with this number, the first being 0; `random` is in [0, 1)."""
        step = min(self.cap_seconds, self.first_seconds * 2.0 ** min(attempt, 32))
        return step * (0.5 + random / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """What the watch says of itself, and its rhythm."""

    instance: str
    watcher_id: str
    max_staleness_ns: int
    ping_interval_ns: int
    trusted_ns: int
    """How long after a ping an answer may rest on it: `max_staleness`, and the most granted beyond the lease."""
    backoff: Backoff = Backoff()


_FIGURES_INTERVAL_NS: Final = 2 * NS_PER_SECOND
"""Replicas report what they were told every few seconds: more often would be for nobody."""
_NEVER: Final = -(2**63)
_REPORTED_CHANGES: Final = 10
"""Of the reason within one outage; what comes on top is seen at debug level only."""
_WRITE_DONE: Final = (asyncio.InvalidStateError, grpc.aio.UsageError)


class _EndedError(Exception):
    """A stream is over. `refused`: because of the bridge credential."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


class _GoAwayError(Exception):
    """The stream is to be left while it is good."""


class RevocationWatch:
    """See the module. `run` is the only task; the other members are read by `GetStatus`."""

    def __init__(
        self,
        *,
        source: WatchSource,
        cache: SessionCache,
        lease: Lease,
        clock: Clock,
        random: Callable[[], float],
        settings: WatchSettings,
        told: FiguresSource,
    ) -> None:
        self._source = source
        self._cache = cache
        self._lease = lease
        self._clock = clock
        self._random = random
        self._settings = settings
        self._told = told
        self._told_at_ns = _NEVER
        self._timing = WatchTiming(
            ping_interval_ns=settings.ping_interval_ns, max_silence_ns=settings.max_staleness_ns
        )
        self._log: Any = logs.get_logger("bridge-sidecar")
        self._reported_end = ""
        self._reported_changes = 0
        self.state = WatchState.DISCONNECTED
        self.figures = WatchFigures()
        self.first_lease = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        attempt = 0
        while True:
            if self.state is not WatchState.REFUSED:
                self.state = WatchState.CONNECTING
            protocol = WatchProtocol(
                cache=self._cache,
                lease=self._lease,
                timing=self._timing,
                figures=self.figures,
                opened_at_ns=self._clock.elapsed_ns(),
            )
            try:
                await self._stream(protocol)
            except _GoAwayError as why:
                self._log.info("opening another stream", why=str(why))
                if protocol.live:
                    attempt = 0
                    continue
            except ProtocolViolationError as violation:
                self._lease.drop()
                self._cache.reset(log_id="", revision=0)
                self._log.error("watch protocol broken; cache dropped", problem=str(violation))
                self.state = WatchState.DISCONNECTED
            except _EndedError as ended:
                self._report_end(ended, first=protocol.live or attempt == 0)
            attempt = 0 if protocol.live else attempt + 1
            await asyncio.sleep(self._settings.backoff.delay_seconds(attempt, self._random()))

    def _report_end(self, ended: _EndedError, *, first: bool) -> None:
        self.state = WatchState.REFUSED if ended.refused else WatchState.DISCONNECTED
        if ended.refused:
            self._lease.make_final()
        why = str(ended)
        if first:
            self._reported_changes = 0
            self._log.warning("revocation watch ended; trying again", why=why)
        elif why != self._reported_end and self._reported_changes < _REPORTED_CHANGES:
            # Unreachable, and then refused: whoever mends the first must be told of the second.
            self._reported_changes += 1
            self._log.warning("revocation watch still down, for another reason", why=why)
        else:
            self._log.debug("revocation watch still down", why=why)
            return
        self._reported_end = why

    async def _stream(self, protocol: WatchProtocol) -> None:
        """Run one stream to its end, which is always an exception.

        One loop does both directions: it waits for the next message or for the next thing that is due, whichever
        comes first. The pending read is never cancelled by the waiting, only with the whole call.
        """
        call = self._source.watch()
        self._told_at_ns = _NEVER  # whom this stream leads to knows nothing of this sidecar
        reading: asyncio.Task[Any] | None = None
        try:
            await self._write(call, bridge_pb2.WatchRevocationsRequest(start=self._start()))
            while True:
                if reading is None:
                    reading = asyncio.ensure_future(self._read(call))
                now_ns = self._clock.elapsed_ns()
                if protocol.deaf(now_ns):
                    raise _EndedError("Flowless is silent")
                if self._source.watch_has_moved:
                    raise _GoAwayError("the channel to Flowless was replaced")
                applied = protocol.take_confirmation()
                if applied is not None:
                    confirmation = bridge_pb2.WatchApplied(applied_revision=applied)
                    await self._write(call, bridge_pb2.WatchRevocationsRequest(applied=confirmation))
                ping = protocol.ping_due(now_ns)
                if ping is not None:
                    message = self._ping(ping, now_ns)
                    await self._write(call, bridge_pb2.WatchRevocationsRequest(ping=message))
                wait_ns = protocol.wait_ns(self._clock.elapsed_ns())
                await asyncio.wait((reading,), timeout=wait_ns / NS_PER_SECOND)
                if reading.done():
                    response, reading = reading.result(), None
                    self._handle(protocol, response)
        finally:
            call.cancel()
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    def _ping(self, ping: Ping, now_ns: int) -> bridge_pb2.WatchPing:
        """Take the figures along with each ping of a stream until the lease is held, and then with some."""
        message = bridge_pb2.WatchPing(nonce=ping.nonce, applied_revision=ping.applied_revision)
        if now_ns >= self._told_at_ns + _FIGURES_INTERVAL_NS:
            message.figures.CopyFrom(self._told.message())
            self._told_at_ns = now_ns if message.figures.lease_held else _NEVER
        return message

    def _start(self) -> bridge_pb2.WatchStart:
        seconds, nanos = divmod(self._settings.trusted_ns, NS_PER_SECOND)
        return bridge_pb2.WatchStart(
            log_id=self._cache.log_id,
            last_revision=self._cache.applied_revision,
            instance=self._settings.instance,
            watcher_id=self._settings.watcher_id,
            max_staleness=Duration(seconds=seconds, nanos=nanos),
        )

    async def _write(self, call: WatchCall, request: bridge_pb2.WatchRevocationsRequest) -> None:
        """Send, for at most `max_staleness`: a peer that takes nothing is as deaf as one that says nothing."""
        try:
            async with asyncio.timeout(self._settings.max_staleness_ns / NS_PER_SECOND):
                await call.write(request)
        except TimeoutError:
            raise _EndedError("Flowless takes nothing") from None
        except grpc.aio.AioRpcError as error:
            raise self._ended(error) from None
        except _WRITE_DONE:
            return  # the call is over; the pending read says why

    async def _read(self, call: WatchCall) -> bridge_pb2.WatchRevocationsResponse:
        try:
            response = await call.read()
        except grpc.aio.AioRpcError as error:
            raise self._ended(error) from None
        if isinstance(response, bridge_pb2.WatchRevocationsResponse):
            return response
        if response is grpc.aio.EOF:
            raise _EndedError("Flowless closed the stream")
        raise ProtocolViolationError("bytes that are not the stream's message")  # grpc hands out None for them

    def _ended(self, error: grpc.aio.AioRpcError) -> _EndedError:
        problem = self._source.explain(error)
        return _EndedError(problem.message, refused=problem.reason is Reason.UPSTREAM_REFUSED_BRIDGE)

    def _handle(self, protocol: WatchProtocol, response: bridge_pb2.WatchRevocationsResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "revocations":
            protocol.on_batch(_rows(response.revocations), now_ns=self._clock.elapsed_ns())
        elif kind == "pong":
            was_live = protocol.live
            pong = response.pong
            protocol.on_pong(nonce=pong.nonce, revision=pong.revision, now_ns=self._clock.elapsed_ns())
            if not was_live:
                self.state = WatchState.LIVE
                self.first_lease.set()
                self._log.info("revocation watch live", revision=self._cache.applied_revision)
        elif kind == "ready":
            ready = response.ready
            protocol.on_ready(log_id=ready.log_id, reset=ready.reset, revision=ready.revision)
            self.state = WatchState.CONNECTING
        elif kind == "barrier":
            protocol.on_barrier()
        elif kind == "go_away":
            raise _GoAwayError("the replica asks to be left")
        # Anything else is of a newer Flowless; it must not rely on our understanding it.


def _rows(batch: bridge_pb2.RevocationBatch) -> Iterator[Revocation]:
    for row in batch.revocations:
        yield Revocation(revision=row.revision, session_digest=row.session_digest, user_id=row.user_id)
