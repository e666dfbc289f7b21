"""The gRPC server: services, interceptors, limits, health. It starts only with a scope for every RPC."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from grpc_reflection.v1alpha import reflection

from flowless.grpc.admin import AdminServicer
from flowless.grpc.authorization import PUBLIC_SERVICES, Authorization, required_scopes
from flowless.grpc.bridge import BridgeServicer
from flowless.grpc.identity import IdentityServicer
from flowless.grpc.pubflow import PubflowServicer
from flowless.grpc.session import SessionServicer
from flowless.grpc.trust_token import TrustTokenServicer
from flowless.services.bridges import Bridges
from flowless.services.open_streams import OpenStreams
from flowless.services.refusals import Refusals
from trust_core.grpc_edge import CallObserver, ErrorBoundary
from trust_core.grpc_health import Health
from trust_core.unix_socket import UnixSocket
from trustlayer.pubflow.v1 import pubflow_pb2, pubflow_pb2_grpc
from trustlayer.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    bridge_pb2,
    bridge_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    trust_token_pb2,
    trust_token_pb2_grpc,
)

_HEADER_BYTES: Final = 8_192
SERVICES: Final = (
    identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
    trust_token_pb2.DESCRIPTOR.services_by_name["TrustTokenService"],
    bridge_pb2.DESCRIPTOR.services_by_name["BridgeService"],
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
)
PUBFLOW_SERVICE: Final = pubflow_pb2.DESCRIPTOR.services_by_name["PubflowService"]
"""Served only when it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportLimits:
    """What callers may take of this process: connections of one listener, calls, bytes of a request, and seconds."""

    connections: int
    calls: int
    message_bytes: int
    connection_age_seconds: float
    connection_grace_seconds: float


class FlowlessServer:
    """Listens once `start` returned; `set_serving` and `stop` order the way out."""

    def __init__(
        self,
        *,
        bridges: Bridges,
        refusals: Refusals,
        streams: OpenStreams,
        identity: IdentityServicer,
        session: SessionServicer,
        trust_token: TrustTokenServicer,
        bridge: BridgeServicer,
        admin: AdminServicer,
        pubflow: PubflowServicer | None,
        limits: TransportLimits,
        serve_reflection: bool,
        share_port: bool,
        observers: Sequence[CallObserver] = (),
    ) -> None:
        """`observers` are told of every call of the listeners, refused ones included."""
        services = SERVICES if pubflow is None else (*SERVICES, PUBFLOW_SERVICE)
        self._health = Health(services=[service.full_name for service in services])
        self._socket: UnixSocket | None = None
        authorization = Authorization(
            bridges=bridges,
            scopes=required_scopes(services),
            refusals=refusals,
            streams=streams,
            observers=observers,
        )
        self._server = grpc.aio.server(
            interceptors=[authorization, ErrorBoundary(program="flowless", observers=observers)],
            maximum_concurrent_rpcs=limits.calls,
            options=_options(limits, share_port=share_port),
        )
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(identity, self._server)
        session_pb2_grpc.add_SessionServiceServicer_to_server(session, self._server)
        trust_token_pb2_grpc.add_TrustTokenServiceServicer_to_server(trust_token, self._server)
        bridge_pb2_grpc.add_BridgeServiceServicer_to_server(bridge, self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._server)
        if pubflow is not None:
            pubflow_pb2_grpc.add_PubflowServiceServicer_to_server(pubflow, self._server)
        self._server.add_generic_rpc_handlers((self._health.handler(),))
        if serve_reflection:
            names = [service.full_name for service in services]
            reflection.enable_server_reflection([*names, PUBLIC_SERVICES[0], PUBLIC_SERVICES[1]], self._server)

    def bind(self, listen: str, *, credentials: grpc.ServerCredentials | None) -> str:
        """Bind and return the address, with the port chosen for port 0. Raises OSError, SocketError."""
        if listen.startswith("unix:"):
            self._socket = UnixSocket(path=listen.removeprefix("unix:"))
            self._socket.claim(self._server.add_insecure_port)
            return listen
        try:
            if credentials is not None:
                port = self._server.add_secure_port(listen, credentials)
            else:
                port = self._server.add_insecure_port(listen)
        except RuntimeError:
            raise OSError(f"cannot listen on {listen}: is another process there?") from None
        return f"{listen.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    def set_serving(self, *, serving: bool) -> None:
        """Tell health checks, for the server as a whole and for each service."""
        self._health.set_serving(serving=serving)

    async def stop(self, grace_seconds: float) -> None:
        """Take no new calls, let those in flight finish, cut them after the grace."""
        await self._server.stop(grace_seconds)
        if self._socket is not None:
            self._socket.release()


def _options(limits: TransportLimits, *, share_port: bool) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.max_allowed_incoming_connections", limits.connections),
        # Who connects and does not go through with it, in TLS or in HTTP/2, is cut off.
        ("grpc.server_handshake_timeout_ms", 5_000),
        ("grpc.max_receive_message_length", limits.message_bytes),
        # Of headers: refused above the first with certainty, since between the two gRPC would draw lots.
        ("grpc.max_metadata_size", _HEADER_BYTES),
        ("grpc.absolute_max_metadata_size", _HEADER_BYTES),
        ("grpc.max_concurrent_streams", 1_000),
        # gRPC adds or takes up to a tenth at random, so that connections of one moment do not end in one moment.
        ("grpc.max_connection_age_ms", round(limits.connection_age_seconds * 1_000)),
        ("grpc.max_connection_age_grace_ms", round(limits.connection_grace_seconds * 1_000)),
        ("grpc.max_connection_idle_ms", 600_000),
        # A watcher whose machine vanished is found within keepalive_time + keepalive_timeout; so is a connection that
        # stands still in the middle of a frame, since it cannot answer.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),  # else gRPC waits a minute for the answer
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may ping as often as our own sidecars do; faster ones are cut off.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.so_reuseport", int(share_port)),
    )
