"""`grpc.health.v1.Health`, for both programs: `Check` only, open to everyone, and cheap to everyone.

`Health` is the service on a port that serves others; `HealthPort` a port of its own for probes, which serves nothing
else: the kubelet speaks no TLS and brings no credential.

It is ours because grpcio's servicer writes to its watchers under the lock that a status change needs: one
watcher that never reads would keep a server from ever draining. Kubernetes and load balancers use `Check`; clients
that try `Watch` take UNIMPLEMENTED as "no health service" (gRPC health checking protocol) and go on.

`Check` is registered as a stream with one message, so that the wait for that message is bounded by us: a unary
handler would wait for it for ever and hold a place among the server's calls.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Final

import grpc
from grpc_health.v1 import health_pb2

from trust_core import grpc_edge
from trust_core.errors import Reason, TrustError

SERVICE: Final = "grpc.health.v1.Health"
LIVENESS: Final = "liveness"
READINESS: Final = "readiness"
_FIRST_MESSAGE_SECONDS: Final = 5.0
_MAX_PROBES: Final = 64
_PORT_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    # Whoever comes here brings no credential: few places, small messages, and nobody keeps a place for long.
    ("grpc.max_allowed_incoming_connections", _MAX_PROBES),
    ("grpc.max_concurrent_streams", 8),
    ("grpc.max_receive_message_length", 1_024),
    ("grpc.max_metadata_size", 4_096),
    ("grpc.absolute_max_metadata_size", 4_096),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_age_ms", 30_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.ping_timeout_ms", 5_000),
)


def check_handler(answer: Callable[[str], bool | None]) -> grpc.GenericRpcHandler:
    """Make the service; `answer` says whether a name is serving, `None` for one that there is not."""

    async def check(
        requests: AsyncIterator[health_pb2.HealthCheckRequest], _: grpc_edge.Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        try:
            async with asyncio.timeout(_FIRST_MESSAGE_SECONDS):
                request = await anext(requests, None)
        except TimeoutError:
            request = None
        if request is None:
            raise TrustError(Reason.MALFORMED_MESSAGE, "send one HealthCheckRequest")
        serving = answer(request.service)
        states = health_pb2.HealthCheckResponse
        # The protocol wants NOT_FOUND for a service that is not there; SERVICE_UNKNOWN is its answer on Watch.
        if serving is None:
            raise TrustError(Reason.SERVICE_NOT_FOUND, "no such service here")
        yield states(status=states.SERVING if serving else states.NOT_SERVING)

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Check": grpc.stream_stream_rpc_method_handler(
                check,
                health_pb2.HealthCheckRequest.FromString,
                health_pb2.HealthCheckResponse.SerializeToString,
            )
        },
    )


class Health:
    """Statuses by service name. Touched by the event loop only; a change never waits for anybody."""

    def __init__(self, *, services: Iterable[str]) -> None:
        """Begin NOT_SERVING, for the server as a whole (the empty name) and for each service."""
        self._serving = dict.fromkeys(("", *services), False)

    def set_serving(self, *, serving: bool) -> None:
        """Change all statuses."""
        self._serving = dict.fromkeys(self._serving, serving)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the service to register."""
        return check_handler(lambda name: self._serving.get(name))  # noqa: PLW0108 - the table is replaced


class HealthPort:
    """Serves probes, in plaintext and in the same event loop: that it answers says that the loop turns.

    It knows two names: `liveness`, and `readiness`, which is also the empty one. Bounded in connections and calls.
    """

    def __init__(self, *, listen: str, program: str, alive: Callable[[], bool], ready: Callable[[], bool]) -> None:
        """`listen` is `host:port`; port 0 takes a free one. Both functions are asked at each probe: be quick."""
        states: Mapping[str, Callable[[], bool]] = {"": ready, READINESS: ready, LIVENESS: alive}

        def answer(name: str) -> bool | None:
            state = states.get(name)
            return None if state is None else state()

        self._listen = listen
        self._server = grpc.aio.server(
            interceptors=(grpc_edge.ErrorBoundary(program=program),),
            maximum_concurrent_rpcs=_MAX_PROBES,
            options=_PORT_OPTIONS,
        )
        self._server.add_generic_rpc_handlers((check_handler(answer),))

    def bind(self) -> str:
        """Take the address and return it, with the port chosen for port 0. Raises OSError when it cannot be had."""
        try:
            port = self._server.add_insecure_port(self._listen)
        except RuntimeError:
            raise OSError(f"cannot listen on {self._listen}: is another process there?") from None
        return f"{self._listen.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Answer from now on."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop answering, at once. Idempotent; also for one that was never started."""
        await self._server.stop(None)
