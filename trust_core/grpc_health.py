"""`grpc.health.v1.Health`, for both programs: `Check` only, open to everyone, and cheap to everyone.

It is ours because grpcio's servicer writes to its watchers under the lock that a status change needs: one
watcher that never reads would keep a server from ever draining. Kubernetes and load balancers use `Check`; clients
that try `Watch` take UNIMPLEMENTED as "no health service" (gRPC health checking protocol) and go on.

`Check` is registered as a stream with one message, so that the wait for that message is bounded by us: a unary
handler would wait for it for ever and hold a place among the server's calls.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

import grpc
from grpc_health.v1 import health_pb2

from trust_core import grpc_edge
from trust_core.errors import Reason, TrustError

SERVICE: Final = "grpc.health.v1.Health"
_FIRST_MESSAGE_SECONDS: Final = 5.0


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
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.stream_stream_rpc_method_handler(
                    self._check,
                    health_pb2.HealthCheckRequest.FromString,
                    health_pb2.HealthCheckResponse.SerializeToString,
                )
            },
        )

    async def _check(
        self, requests: AsyncIterator[health_pb2.HealthCheckRequest], _: grpc_edge.Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        try:
            async with asyncio.timeout(_FIRST_MESSAGE_SECONDS):
                request = await anext(requests, None)
        except TimeoutError:
            request = None
        if request is None:
            raise TrustError(Reason.MALFORMED_MESSAGE, "send one HealthCheckRequest")
        serving = self._serving.get(request.service)
        states = health_pb2.HealthCheckResponse
        # The protocol wants NOT_FOUND for a service that is not there; SERVICE_UNKNOWN is its answer on Watch.
        if serving is None:
            raise TrustError(Reason.SERVICE_NOT_FOUND, "no such service here")
        yield states(status=states.SERVING if serving else states.NOT_SERVING)
