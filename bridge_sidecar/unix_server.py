"""The server on the socket: thin handlers for `ValidatorService` and health, and the relay beside them.

The answer to `Validate` is spliced, not built: the session stands in the cache as the bytes that it has in a
serialized `ValidateResponse`, and the freshness, as bytes of the same message, is put behind it. Protobuf defines
the concatenation of two messages as their merge. So a hit costs the same however large the session's payload is.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration

from bridge_sidecar.lease import Lease
from bridge_sidecar.mismatches import MismatchReporter
from bridge_sidecar.revocation_watch import WatchState
from bridge_sidecar.routes import MAX_PATH_BYTES, Routes, Rule
from bridge_sidecar.session_cache import SessionCache
from bridge_sidecar.upstream import MAX_MESSAGE_BYTES
from bridge_sidecar.validator import Counters, Question, Tier, Verdict
from bridge_sidecar.watch_protocol import WatchFigures
from trust_core import grpc_edge
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import Violation, invalid
from trust_core.grpc_health import READINESS, Health
from trust_core.modes import DENIAL_TEXT, DenialReason, RequestContext, ValidationMode
from trust_core.tracing import Tracer
from trust_core.unix_socket import UnixSocket
from trust_core.version import __version__
from trustlayer.v1 import types_pb2, validator_pb2

SERVICE: Final = validator_pb2.DESCRIPTOR.services_by_name["ValidatorService"].full_name

_MAX_IP_CHARS: Final = 45
_MAX_DEVICE_BYTES: Final = 512
_MAX_USER_AGENT_BYTES: Final = 1_024
_MAX_ROUTE_BYTES: Final = 128
_MAX_METHOD_CHARS: Final = 32
_DENIALS: Final = {int(reason): text for reason, text in DENIAL_TEXT.items()}
_MODES: Final[dict[int, ValidationMode | None]] = {0: None, **{int(mode): mode for mode in ValidationMode}}
_MALFORMED_AT_ONCE: Final = 128
_LOOK_SECONDS: Final = 1.0
_MAX_CALLS: Final = 10_000
"""Calls in flight over all connections; more are RESOURCE_EXHAUSTED. Bounds who may wait for shared misses."""

_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # The second as well: between the two gRPC would draw lots.
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1_000),
    ("grpc.max_allowed_incoming_connections", 4_096),
    # Who connects and says nothing is cut off.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 2),
    # Who stands still, also in the middle of a header block without end (which is no call yet), answers no ping and
    # is cut off. Apps that are idle are not woken more often than that.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # else gRPC waits a minute for the answer
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)


class Answerer(Protocol):
    """Who answers `Validate`."""

    counters: Counters

    async def validate(self, question: Question) -> Verdict:
        """Answer; raises `TrustError`."""
        ...


class WatchStatus(Protocol):
    """What `GetStatus` shows of the watch."""

    state: WatchState
    figures: WatchFigures


class ValidatorHandlers:
    """The handlers of `ValidatorService`."""

    def __init__(
        self,
        *,
        answerer: Answerer,
        cache: SessionCache,
        lease: Lease,
        watch: WatchStatus,
        clock: Clock,
        routes: Routes,
        mismatches: MismatchReporter,
        routes_required: bool,
        max_staleness_ns: int,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._routes = routes
        self._mismatches = mismatches
        self._routes_required = routes_required
        self._answerer = answerer
        self._cache = cache
        self._lease = lease
        self._watch = watch
        self._clock = clock
        self._max_staleness_ns = max_staleness_ns
        self._started_at_ns = clock.elapsed_ns()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service. `validate` serializes for itself; see the module."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Validate": grpc.unary_unary_rpc_method_handler(
                    self.validate, validator_pb2.ValidateRequest.FromString, None
                ),
                "GetStatus": grpc.unary_unary_rpc_method_handler(
                    self.get_status,
                    validator_pb2.GetStatusRequest.FromString,
                    validator_pb2.GetStatusResponse.SerializeToString,
                ),
            },
        )

    async def validate(self, request: validator_pb2.ValidateRequest, _context: grpc_edge.Context) -> bytes:
        """See ValidatorService.Validate."""
        question = self._question(request)
        if question is None:
            self._answerer.counters.denied(DenialReason.ROUTE_NOT_COVERED)
            verdict = _NOT_COVERED
        else:
            verdict = await self._answerer.validate(question)
        if self._tracer is not None:
            self._tracer.note(traced(verdict))
        return serialize(verdict)

    def _question(self, request: validator_pb2.ValidateRequest) -> Question | None:
        """Read a request; `None` when no rule covers it."""
        sent, mode = request.context, request.mode
        context = RequestContext(sent.client_ip, sent.device_fingerprint, sent.user_agent)
        if mode not in _MODES or request.min_revision < 0 or _too_long(context) or not _names_one_route(request):
            raise invalid(*_violations(request, context))
        rule = self._rule(request)
        if rule is None:
            return None
        # Longer texts cannot be session ids; a short one stands for them, so nobody digests a megabyte.
        session_id = request.session_id if len(request.session_id) <= _MALFORMED_AT_ONCE else ""
        return Question(
            session_id=session_id,
            mode=self._routes.table.mode_of(rule, _MODES[mode]),
            context=context,
            min_revision=request.min_revision,
            rule=rule,
        )

    def _rule(self, request: validator_pb2.ValidateRequest) -> Rule | None:
        table = self._routes.table
        if request.route:
            return table.by_name(request.route)
        if request.path or request.http_method:
            match = table.by_request(request.http_method, request.path)
            return None if match is None else match.rule
        return None if self._routes_required else table.unnamed

    async def get_status(
        self, _request: validator_pb2.GetStatusRequest, _context: grpc_edge.Context
    ) -> validator_pb2.GetStatusResponse:
        """See ValidatorService.GetStatus."""
        now_ns = self._clock.elapsed_ns()
        counters, figures = self._answerer.counters, self._watch.figures
        return validator_pb2.GetStatusResponse(
            lease_held=self._lease.held(now_ns),
            lease_remaining=_duration(self._lease.remaining_ns(now_ns)),
            lease_age=_maybe_duration(self._lease.age_ns(now_ns)),
            max_staleness=_duration(self._max_staleness_ns),
            applied_revision=self._cache.applied_revision,
            watch_state=validator_pb2.WatchState.ValueType(self._watch.state),
            watch_round_trip=_maybe_duration(figures.round_trip_ns),
            last_revocation_within=_maybe_duration(figures.last_revocation_within_ns),
            cached_sessions=self._cache.entries,
            cached_bytes=self._cache.weight_bytes,
            hits=counters.hits,
            misses=counters.misses,
            malformed=counters.malformed,
            unavailable=counters.unavailable,
            upstream_calls=counters.upstream_calls,
            prewarmed_sessions=counters.prewarmed,
            answers_beyond_lease=counters.beyond_lease,
            rules=len(self._routes.table.rules),
            rule_problems=self._routes.problems,
            mismatches_reported=self._mismatches.reported,
            mismatches_not_reported=self._mismatches.not_reported,
            uptime=_duration(now_ns - self._started_at_ns),
            version=__version__,
        )


def _too_long(context: RequestContext) -> bool:
    return (
        len(context.client_ip) > _MAX_IP_CHARS
        or _exceeds(context.device_fingerprint, _MAX_DEVICE_BYTES)
        or _exceeds(context.user_agent, _MAX_USER_AGENT_BYTES)
    )


def _exceeds(text: str, most: int) -> bool:
    return len(text) * 4 > most and len(text.encode()) > most


def _names_one_route(request: validator_pb2.ValidateRequest) -> bool:
    """Whether the route is told in at most one way, and in bounds."""
    if not (request.path or request.http_method):
        return not _exceeds(request.route, _MAX_ROUTE_BYTES)
    return (
        not request.route
        and bool(request.path and request.http_method)
        and len(request.http_method) <= _MAX_METHOD_CHARS
        and not _exceeds(request.path, MAX_PATH_BYTES)
    )


def _violations(request: validator_pb2.ValidateRequest, context: RequestContext) -> list[Violation]:
    found: list[Violation] = []
    if request.mode not in _MODES:
        found.append(Violation("mode", "must be a ValidationMode that this version knows, or unspecified"))
    if request.min_revision < 0:
        found.append(Violation("min_revision", "must be 0 or a revision of the log"))
    if len(context.client_ip) > _MAX_IP_CHARS:
        found.append(Violation("context.client_ip", f"must have at most {_MAX_IP_CHARS} characters"))
    if _exceeds(context.device_fingerprint, _MAX_DEVICE_BYTES):
        found.append(Violation("context.device_fingerprint", f"must have at most {_MAX_DEVICE_BYTES} bytes"))
    if _exceeds(context.user_agent, _MAX_USER_AGENT_BYTES):
        found.append(Violation("context.user_agent", f"must have at most {_MAX_USER_AGENT_BYTES} bytes"))
    if _exceeds(request.route, _MAX_ROUTE_BYTES):
        found.append(Violation("route", f"must have at most {_MAX_ROUTE_BYTES} bytes"))
    elif not _names_one_route(request):
        found.append(
            Violation(
                "path",
                f"must come with http_method (at most {_MAX_METHOD_CHARS} characters), without route, "
                f"and with at most {MAX_PATH_BYTES} bytes",
            )
        )
    return found


def serialize(verdict: Verdict) -> bytes:
    """Express a verdict as the bytes of a `ValidateResponse`; see the module."""
    response = validator_pb2.ValidateResponse()
    freshness = response.freshness
    freshness.tier = types_pb2.Tier.ValueType(verdict.tier)
    freshness.revision = verdict.revision
    age = freshness.age
    age.seconds, age.nanos = divmod(verdict.age_ns, NS_PER_SECOND)
    if verdict.beyond_lease_ns is not None:
        freshness.beyond_lease.CopyFrom(_duration(verdict.beyond_lease_ns))
    if verdict.denial:
        response.denial.reason = types_pb2.DenialReason.ValueType(verdict.denial)
        response.denial.message = _DENIALS.get(verdict.denial, "the session is not active")
    return verdict.payload + response.SerializeToString()


_NOT_COVERED: Final = Verdict(b"", DenialReason.ROUTE_NOT_COVERED, Tier.NONE, 0, 0)


def traced(verdict: Verdict) -> dict[str, str | float]:
    """Say what a trace holds of a verdict: who knew it, how fresh it is, why not. Nothing of whom it is about."""
    said: dict[str, str | float] = {
        "trustlayer.tier": _TIERS.get(verdict.tier, "UNKNOWN"),
        "trustlayer.age_seconds": verdict.age_ns / NS_PER_SECOND,
    }
    if verdict.denial:
        said["trustlayer.denial"] = _DENIAL_NAMES.get(verdict.denial, "UNKNOWN")
    if verdict.beyond_lease_ns is not None:
        said["trustlayer.beyond_lease_seconds"] = verdict.beyond_lease_ns / NS_PER_SECOND
    return said


_TIERS: Final = {int(tier): tier.name for tier in Tier}
_DENIAL_NAMES: Final = {int(reason): reason.name for reason in DenialReason}


def _duration(nanoseconds: int) -> Duration:
    seconds, nanos = divmod(nanoseconds, NS_PER_SECOND)
    return Duration(seconds=seconds, nanos=nanos)


def _maybe_duration(nanoseconds: int | None) -> Duration | None:
    return None if nanoseconds is None else _duration(nanoseconds)


class SocketLostError(Exception):
    """The path does not lead to our socket any more; no app can connect."""


class UnixServer:
    """The gRPC server on the socket. Health starts NOT_SERVING: nothing was proven fresh yet."""

    def __init__(
        self,
        *,
        socket_path: str,
        validator: ValidatorHandlers,
        relay: grpc.GenericRpcHandler,
        ext_authz: grpc.GenericRpcHandler | None = None,
        observers: Sequence[grpc_edge.CallObserver] = (),
    ) -> None:
        """`observers` are told of every call of the socket that has a handler."""
        self._socket = UnixSocket(path=socket_path)
        self._health = Health(services=(SERVICE, READINESS))
        self._server = grpc.aio.server(
            interceptors=(grpc_edge.ErrorBoundary(program="bridge-sidecar", observers=observers),),
            maximum_concurrent_rpcs=_MAX_CALLS,
            options=_OPTIONS,
        )
        more = () if ext_authz is None else (ext_authz,)
        self._server.add_generic_rpc_handlers((validator.handlers(), *more, relay, self._health.handler()))
        self._ending = False
        self.is_serving = False

    async def start(self) -> None:
        """Claim the socket and answer on it. Raises `SocketError`."""
        self._socket.claim(self._server.add_insecure_port)
        await self._server.start()

    async def watch_socket(self) -> None:
        """Look every second whether the path still leads to the socket. Raises `SocketLostError` once it does not."""
        while True:
            if not self._socket.is_reachable():
                raise SocketLostError
            await asyncio.sleep(_LOOK_SECONDS)

    def set_serving(self) -> None:
        """Tell health checks that the first lease is held; no more once the end is near."""
        if not self._ending:
            self.is_serving = True
            self._health.set_serving(serving=True)

    def end_serving(self) -> None:
        """Tell health checks that the end is near; calls are still answered."""
        self._ending = True
        self.is_serving = False
        self._health.set_serving(serving=False)

    async def stop(self, *, drain_seconds: float) -> None:
        """Accept nothing new, let calls in flight finish, cut them after `drain_seconds`, leave the path clean."""
        self.end_serving()
        await self._server.stop(drain_seconds)
        self._socket.release()
