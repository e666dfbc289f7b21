"""A model of Flowless for the simulation of the sidecar alone: few lines, few events, so that many schedules fit in.

It keeps to the protocol as the real one does: rows in order and before the pongs that vouch for them, pings answered
in order and only by a read of the log that began after the ping had arrived, an answer with the log's end of the same
snapshot.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import grpc

from bridge_sidecar.upstream import WatchCall
from bridge_sidecar.validator import UpstreamAnswer
from flowless.domain.revocations import Revocation
from flowless.domain.sessions import judge
from tests.faults.simulated.network import Gate, Link, UnreachableError
from tests.faults.simulated.storage import LIMITS, answer_of
from tests.faults.simulated.virtual_time import VirtualClock
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import digest
from trustlayer.v1 import bridge_pb2 as pb

if TYPE_CHECKING:
    from tests.faults.simulated.simulation import Sidecar, World

_LOOK_AGAIN_SECONDS: Final = 0.02


class _Way:
    """One direction of a stream: what is put in comes out in the same order, later, or never when the link is cut."""

    def __init__(self, link: Link, ready: Callable[[], bool], out: Callable[[Any], None]) -> None:
        self._link = link
        self._ready = ready
        self._out = out
        self._items: deque[Any] = deque()
        self._moving = False
        self.closed = False

    def put(self, item: Any) -> None:
        self._items.append(item)
        if not self._moving:
            self._moving = True
            asyncio.get_running_loop().call_later(self._link.delay(), self._arrive)

    def _arrive(self) -> None:
        if self.closed:
            return
        loop = asyncio.get_running_loop()
        if not (self._link.hears.is_open and self._link.stream_hears.is_open and self._ready()):
            loop.call_later(_LOOK_AGAIN_SECONDS, self._arrive)
            return
        # What was sent together arrives together.
        while self._items:
            self._out(self._items.popleft())
        self._moving = False


class ModelWatchCall:
    """Both ends of one watch stream."""

    def __init__(self, world: "World", link: Link, replica: "ModelReplica", sidecar: "Sidecar") -> None:
        self._world = world
        self._link = link
        self._received: asyncio.Queue[Any] = asyncio.Queue()
        self._to_server = _Way(link, lambda: replica.awake.is_open, self._on_request)
        self._to_client = _Way(link, lambda: sidecar.awake.is_open, self._received.put_nowait)
        self._sent_through: int | None = None
        self._unanswered: deque[int] = deque()
        if link.broken or not replica.alive:
            self._cut()
        else:
            link.when_cut(self, self._cut)
            world.storage.listeners[self] = self._hear

    async def write(self, request: pb.WatchRevocationsRequest) -> None:
        if self._to_server.closed:
            raise asyncio.InvalidStateError
        self._to_server.put(request)

    async def read(self) -> Any:
        received = await self._received.get()
        if isinstance(received, Exception):
            raise received
        return received

    def cancel(self) -> None:
        self._to_server.closed = self._to_client.closed = True
        self._link.forget(self)
        self._world.storage.listeners.pop(self, None)

    def _cut(self) -> None:
        self.cancel()
        error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        self._received.put_nowait(error)

    def _on_request(self, request: pb.WatchRevocationsRequest) -> None:
        if request.WhichOneof("message") == "start":
            self._start(request.start)
        elif request.WhichOneof("message") == "ping":
            self._unanswered.append(request.ping.nonce)
            if len(self._unanswered) == 1:
                self._read_then(self._pong)

    def _read_then(self, work: Callable[[], None]) -> None:
        """Read the log some time after now."""

        def read() -> None:
            if self._to_client.closed:
                return
            if self._world.storage.down:
                self._cut()
            elif not self._world.storage.runs.is_open:
                asyncio.get_running_loop().call_later(_LOOK_AGAIN_SECONDS, read)
            else:
                work()

        asyncio.get_running_loop().call_later(self._world.storage.delay(), read)

    def _start(self, start: pb.WatchStart) -> None:
        end = self._world.storage.end
        reset = start.log_id != "log" or start.last_revision > end
        self._sent_through = end if reset else start.last_revision
        ready = pb.WatchReady(log_id="log", reset=reset, revision=self._sent_through)
        self._to_client.put(pb.WatchRevocationsResponse(ready=ready))
        self._rows()

    def _rows(self) -> None:
        if self._sent_through is None:
            return
        rows = [row for row in self._world.storage.rows if row.revision > self._sent_through]
        if rows:
            self._sent_through = rows[-1].revision
            batch = pb.RevocationBatch(revocations=[_row(row) for row in rows])
            self._to_client.put(pb.WatchRevocationsResponse(revocations=batch))

    def _pong(self) -> None:
        self._rows()
        pong = pb.WatchPong(nonce=self._unanswered.popleft(), revision=self._sent_through or 0)
        self._to_client.put(pb.WatchRevocationsResponse(pong=pong))
        if self._unanswered:
            self._read_then(self._pong)

    def _hear(self) -> None:
        if self._world.rng.random() >= self._world.lost_wakeups:
            self._read_then(self._rows)


def _row(row: Revocation) -> pb.Revocation:
    if row.subject == "session":
        return pb.Revocation(revision=row.revision, session_digest=bytes.fromhex(row.key))
    return pb.Revocation(revision=row.revision, user_id=row.key)


class _NoBarriers:
    """The model keeps none; the simulation of everything does."""

    keeps = False


class _NoTail:
    def wake(self) -> None:
        """Streams hear of rows from storage."""


class ModelReplica:
    """See the module, and `simulation.Replica`."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self.number = number
        self.awake = Gate()
        self.clock = VirtualClock(world.loop, offset_seconds=world.rng.uniform(0, 1e6))
        self.barriers: Any = _NoBarriers()
        self.tail: Any = _NoTail()
        self.alive = True
        self.storage_cut = False

    def start(self) -> None:
        self.alive = True

    def kill(self) -> None:
        self.alive = False
        for link in self._world.links_of_replica(self.number):
            link.drop_all()
        self.awake.open()

    async def validate(self, session_id: str, min_revision: int, tolerated: timedelta) -> UpstreamAnswer:
        if not self.alive:
            raise UnreachableError
        await self.awake.passed()
        await self._world.storage.take_time()
        read = self._world.storage.snapshot(digest(session_id))
        if read.revision < min_revision:
            raise TrustError(Reason.REVISION_NOT_REACHED, "not there yet")
        await self._world.storage.answer()
        await self.awake.passed()
        if not self.alive:
            raise UnreachableError
        return answer_of(judge(read, now=self.clock.now(), limits=LIMITS), read.revision)

    def connect(self, link: Link, sidecar: "Sidecar") -> WatchCall:
        return cast("WatchCall", ModelWatchCall(self._world, link, self, sidecar))
