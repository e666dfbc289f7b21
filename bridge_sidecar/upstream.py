"""Everything that goes to Flowless: the channel, the credential on each call, deadlines, and what errors mean.

A rolling update of Flowless must not be seen by an app. So a call that a replica never took is made again at once,
of another replica if there is one, a few times within its own deadline; and a call that may be repeated, as the proto
says of it (`idempotency_level`), also when its replica is gone and nobody knows how far it came. A login whose
replica was killed under it is not repeated: that would be another login. The watch has its own backoff. The channel
reconnects by itself, with a short capped backoff, looks its name up again when it loses a replica, and spreads calls
over all addresses.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from bridge_sidecar.activity import SessionIdle, SessionUse
from bridge_sidecar.bridge_secret import SecretSource
from bridge_sidecar.prewarm import PrewarmedSession
from bridge_sidecar.routes import Rule
from bridge_sidecar.validator import ActiveSession, UpstreamAnswer
from trust_core import grpc_edge, request_ids
from trust_core.clock import NS_PER_SECOND
from trust_core.errors import Reason, TrustError
from trust_core.modes import Binding, RequestContext, ValidationMode
from trust_core.tracing import TRACEPARENT, Tracer
from trustlayer.v1 import bridge_pb2, bridge_pb2_grpc, types_pb2, validator_pb2

WatchCall = grpc.aio.StreamStreamCall[bridge_pb2.WatchRevocationsRequest, bridge_pb2.WatchRevocationsResponse]
Metadata = tuple[tuple[str, str], ...]
M = TypeVar("M", bound=Message)
T = TypeVar("T")

MAX_MESSAGE_BYTES: Final = 1024 * 1024

OPTIONS: Final = (
    # With no service config these are the transparent ones alone: of calls that no server has seen, as when it says
    # goodbye while they are on their way. What may be made again after that, `_taken` decides.
    ("grpc.enable_retries", 1),
    ("grpc.enable_http_proxy", 0),  # a proxy from the environment would see the credential of a plaintext channel
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),  # a restarted replica is in use before the next one goes
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),  # so is a new one; 30 s otherwise
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)

_REFUSALS: Final = frozenset(
    (Reason.BRIDGE_CREDENTIAL_MISSING, Reason.BRIDGE_CREDENTIAL_REFUSED, Reason.SCOPE_MISSING),
)
_REFUSING_CODES: Final = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_KEPT: Final = {
    Reason.STORAGE_UNAVAILABLE: "Flowless cannot reach its storage",
    Reason.STORAGE_FULL: "Flowless' storage is full",
    Reason.REVISION_NOT_REACHED: "Flowless has not reached the revision asked for",
    Reason.NOT_IMPLEMENTED: "Flowless does not implement this call",
}
_VALIDATE: Final = "/trustlayer.v1.BridgeService/ValidateSession"
_REPORT_MISMATCH: Final = "/trustlayer.v1.BridgeService/ReportMismatch"
_NOT_FLOWLESS: Final = "what answers at the configured address is not a Flowless that validates sessions"
_NOT_ACCEPTED: Final = (
    "Flowless does not accept what this sidecar asks for: max_staleness_seconds with the longest "
    "serve_beyond_lease_seconds "
    "must not exceed Flowless' watch_staleness_max_seconds"
)
_REPORT_TIMEOUT_SECONDS: Final = 5.0
_LONG_AGO_NS: Final = 2**62
_PAUSES_SECONDS: Final = (0.005, 0.05, 0.2)
"""Before asking another replica."""
_CUT_AT_ONCE_SECONDS: Final = 1.0
"""A server that drains lets a call that it has taken go on for longer than this."""


def refuses_bridge(error: grpc.RpcError) -> bool:
    """Whether the error means that Flowless (or something before it) does not accept the bridge itself.

    UNAUTHENTICATED alone does not: LOGIN_REFUSED is about the app's user.
    """
    reason = grpc_edge.reason_of(error)
    return reason in _REFUSALS or (not reason and error.code() in _REFUSING_CODES)


def _never_taken(error: grpc.aio.AioRpcError, *, after_seconds: float) -> bool:
    """Whether the replica refused the call before anything was done, since it is about to stop or stops.

    A server that stops cuts a call that arrives at this moment, as CANCELLED and without a word; one that runs
    already it cuts so only when the time to drain is over. A call that this side cancels raises
    `asyncio.CancelledError` instead.
    """
    reason = grpc_edge.reason_of(error)
    cut = error.code() is grpc.StatusCode.CANCELLED and not reason and after_seconds < _CUT_AT_ONCE_SECONDS
    return cut or reason == Reason.DRAINING


def _not_finished(error: grpc.aio.AioRpcError) -> bool:
    """Whether the call was not finished for want of a replica; how far it came is not known."""
    gone = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return gone and grpc_edge.reason_of(error) in ("", Reason.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayedResponse:
    """The bytes of an answer that passes through, and the revision that the call wrote (0: none)."""

    data: bytes
    revision: int


class Channels(Protocol):
    """Where calls go: `upstream_channel.UpstreamChannel`."""

    @property
    def current(self) -> grpc.aio.Channel:
        """The channel for new calls."""
        ...

    async def close(self) -> None:
        """Close it; calls in flight end."""
        ...


class Upstream:
    """Flowless, as the rest of the sidecar sees it. Errors leave as `TrustError`, except from `relay` and `watch`."""

    def __init__(
        self,
        *,
        channels: Channels,
        secret: SecretSource,
        tolerated_age_ns: int = 0,
        tracer: Tracer | None = None,
    ) -> None:
        """`tolerated_age_ns`: how old an answer may be when the question arrives, see ARCHITECTURE's guarantee."""
        self._tracer = tracer
        self._channels = channels
        self._tolerated_age = _duration(tolerated_age_ns)
        self._secret = secret
        self._use(channels.current)
        self._watched = channels.current

    def _use(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stub = bridge_pb2_grpc.BridgeServiceStub(channel)
        self._relayed: dict[str, Any] = {}

    @property
    def _bridge(self) -> "bridge_pb2_grpc.BridgeServiceAsyncStub":
        if self._channel is not self._channels.current:
            self._use(self._channels.current)
        return self._stub

    def _credential(self) -> Metadata:
        return _metadata(self._secret.current())

    async def _called(self, method: str, call: Callable[[Metadata], Awaitable[T]]) -> T:
        """Make a call of this RPC, and once more when its credential was refused and has been replaced meanwhile.

        A credential is refused at Flowless' door, before anything is done: this is safe for every call.
        """
        secret = self._secret.current()
        try:
            return await self._traced(method, call, _metadata(secret))
        except grpc.aio.AioRpcError as error:
            if grpc_edge.reason_of(error) != Reason.BRIDGE_CREDENTIAL_REFUSED:
                raise
            self._secret.doubt()
            if self._secret.current() == secret:
                raise
        return await self._traced(method, call, self._credential())

    async def _traced(self, method: str, call: Callable[[Metadata], Awaitable[T]], metadata: Metadata) -> T:
        """Make the call inside a span of its own, if the call of the app that causes it is traced."""
        if self._tracer is None:
            return await call(metadata)
        span, parent = self._tracer.outgoing(method)
        try:
            result = await call((*metadata, (TRACEPARENT, parent)) if parent else metadata)
        except BaseException as error:
            if span is not None:
                span.note({"rpc.grpc.status_code": _code_of(error)})
                span.end(failed=True)
            raise
        if span is not None:
            span.note({"rpc.grpc.status_code": 0})
            span.end()
        return result

    def explain(self, error: grpc.RpcError) -> TrustError:
        """Say what an error of a call of our own means. Its text is ours: upstream's may name its network."""
        if refuses_bridge(error):
            self._secret.doubt()
            return TrustError(
                Reason.UPSTREAM_REFUSED_BRIDGE,
                "Flowless refuses this sidecar's bridge credential or its scopes; an operator has to mend it",
            )
        reason = grpc_edge.reason_of(error)
        for kept, text in _KEPT.items():
            if reason == kept:
                return TrustError(kept, text)
        if reason == Reason.INVALID_FIELD:
            return TrustError(Reason.UPSTREAM_UNAVAILABLE, _NOT_ACCEPTED)
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return TrustError(Reason.NOT_IMPLEMENTED, _KEPT[Reason.NOT_IMPLEMENTED])
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TrustError(Reason.UPSTREAM_UNAVAILABLE, "Flowless did not answer in time")
        return TrustError(Reason.UPSTREAM_UNAVAILABLE, "Flowless cannot be reached or cannot answer now")

    async def validate_session(self, session_id: str, *, min_revision: int, timeout_seconds: float) -> UpstreamAnswer:
        """See `validator.SessionSource`. The mode stays unspecified, so the answer carries the binding."""
        request = bridge_pb2.ValidateSessionRequest(
            session_id=session_id, min_revision=min_revision, max_staleness=self._tolerated_age
        )
        try:
            response = await self._taken(
                _VALIDATE,
                lambda metadata, left: self._bridge.ValidateSession(request, timeout=left, metadata=metadata),
                timeout_seconds=timeout_seconds,
                repeatable=True,
            )
        except grpc.aio.AioRpcError as error:
            problem = self.explain(error)
            if problem.reason is Reason.NOT_IMPLEMENTED:
                problem = TrustError(Reason.UPSTREAM_UNAVAILABLE, _NOT_FLOWLESS)
            raise problem from None
        return _answer(_understood(response))

    async def _taken(
        self,
        method: str,
        call: Callable[[Metadata, float], Awaitable[T]],
        *,
        timeout_seconds: float,
        repeatable: bool,
    ) -> T:
        """Make a call until a replica takes it or, if it is repeatable, finishes it.

        `call` is given its metadata and the seconds left.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout_seconds
        for pause in (*_PAUSES_SECONDS, None):
            began = loop.time()
            try:
                return await self._called(method, lambda metadata: call(metadata, max(0.0, ends - loop.time())))
            except grpc.aio.AioRpcError as error:
                never_taken = _never_taken(error, after_seconds=loop.time() - began)
                again = never_taken or (repeatable and _not_finished(error))
                if pause is None or not again or loop.time() + pause >= ends:
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def report_mismatch(
        self, session_id: str, *, mode: ValidationMode, context: RequestContext, rule: Rule, timeout_seconds: float
    ) -> int:
        """See `mismatches.MismatchReceiver`."""
        request = bridge_pb2.ReportMismatchRequest(
            session_id=session_id,
            mode=types_pb2.ValidationMode.ValueType(mode),
            context=types_pb2.RequestContext(
                client_ip=context.client_ip,
                device_fingerprint=context.device_fingerprint,
                user_agent=context.user_agent,
            ),
            ipv4_prefix=rule.ip_prefixes.v4,
            ipv6_prefix=rule.ip_prefixes.v6,
        )
        try:
            response = await self._taken(
                _REPORT_MISMATCH,
                lambda metadata, left: self._bridge.ReportMismatch(request, timeout=left, metadata=metadata),
                timeout_seconds=timeout_seconds,
                repeatable=True,
            )
        except grpc.aio.AioRpcError as error:
            raise self.explain(error) from None
        response = _understood(response)
        return response.revision if response.revoked else 0

    async def report_activity(self, uses: Sequence[SessionUse]) -> Sequence[SessionIdle]:
        """See `activity.ActivityReceiver`."""
        request = bridge_pb2.ReportActivityRequest(
            activities=[
                bridge_pb2.SessionActivity(session_digest=use.digest, idle_for=_duration(use.idle_for_ns))
                for use in uses
            ]
        )
        try:
            response = await self._bridge.ReportActivity(
                request, timeout=_REPORT_TIMEOUT_SECONDS, metadata=self._credential()
            )
        except grpc.aio.AioRpcError as error:
            raise self.explain(error) from None
        return [SessionIdle(idle.session_digest, _ns(idle.idle_remaining)) for idle in _understood(response).sessions]

    async def prewarm(self, limit: int, *, timeout_seconds: float) -> AsyncIterator[PrewarmedSession]:
        """See `prewarm.PrewarmSource`."""
        call = self._bridge.PrewarmSessions(
            bridge_pb2.PrewarmSessionsRequest(limit=limit), timeout=timeout_seconds, metadata=self._credential()
        )
        try:
            async for response in call:
                message = _understood(response)
                active = _active(message.session)
                if active is not None:
                    yield PrewarmedSession(message.session_digest, active, message.revision)
        except grpc.aio.AioRpcError as error:
            raise self.explain(error) from None
        finally:
            call.cancel()

    def watch(self) -> WatchCall:
        """Open the watch stream. Errors come out of its reads and writes; `explain` says what they mean."""
        call = self._bridge.WatchRevocations(metadata=self._credential())
        self._watched = self._channel
        return call

    @property
    def watch_has_moved(self) -> bool:
        """Whether the watch stream that was opened last is on a channel that another one has replaced."""
        return self._watched is not self._channels.current

    async def relay(
        self, method: str, request: bytes, *, timeout_seconds: float, repeatable: bool
    ) -> RelayedResponse:
        """Pass one unary call through as bytes. Raises `grpc.aio.AioRpcError` as upstream sent it.

        `repeatable`: done twice, it does what it does once. Cancelling the caller cancels the call.
        """

        async def made(metadata: Metadata, left: float) -> RelayedResponse:
            call = self._passing(method)(request, timeout=left, metadata=metadata)
            data = await call
            return RelayedResponse(data=data, revision=revision_in(await call.trailing_metadata()))

        return await self._taken(method, made, timeout_seconds=timeout_seconds, repeatable=repeatable)

    def _passing(self, method: str) -> Any:
        channel = self._channels.current
        if self._channel is not channel:
            self._use(channel)
        if method not in self._relayed:
            self._relayed[method] = channel.unary_unary(method)
        return self._relayed[method]

    def doubt_secret(self) -> None:
        """Flowless refused the credential of a relayed call: look again before the next one."""
        self._secret.doubt()

    async def close(self) -> None:
        """Close the channel; calls in flight end."""
        await self._channels.close()


def _code_of(error: BaseException) -> int:
    if isinstance(error, grpc.aio.AioRpcError):
        code: int = error.code().value[0]
        return code
    cancelled: int = grpc.StatusCode.CANCELLED.value[0]
    return cancelled if isinstance(error, asyncio.CancelledError) else grpc.StatusCode.UNKNOWN.value[0]


def _metadata(secret: str) -> Metadata:
    """Make what goes with each call: the credential, and the id of the app's request behind it, if there is one."""
    credential = ("authorization", f"Bearer {secret}")
    request_id = request_ids.current()
    return ((grpc_edge.REQUEST_ID_KEY, request_id), credential) if request_id else (credential,)


def revision_in(trailing: Any) -> int:
    """Read the revision that a call wrote from its trailing metadata; 0 when there is none that makes sense."""
    for key, value in trailing or ():
        if key == grpc_edge.REVISION_KEY and isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value) if len(value) < 20 else 0
    return 0


def _understood(response: M | None) -> M:
    """Refuse bytes that were not the message: grpc logs that, and hands out None."""
    if response is None:
        raise TrustError(Reason.UPSTREAM_UNAVAILABLE, _NOT_FLOWLESS)
    return response


def _answer(response: bridge_pb2.ValidateSessionResponse) -> UpstreamAnswer:
    freshness = response.freshness
    kind = response.WhichOneof("result")
    if kind == "denial" and response.denial.reason:
        return UpstreamAnswer(
            active=None, denial=response.denial.reason, tier=freshness.tier, revision=freshness.revision
        )
    active = _active(response.active) if kind == "active" else None
    if active is None:
        raise TrustError(Reason.UPSTREAM_UNAVAILABLE, "Flowless' answer is incomplete")
    return UpstreamAnswer(active=active, denial=0, tier=freshness.tier, revision=freshness.revision)


def _active(message: bridge_pb2.CacheableSession) -> ActiveSession | None:
    """Read a session. One without an owner or an end cannot be cached safely, so it is not believed either."""
    complete = (
        message.session.user.id and message.HasField("absolute_remaining") and message.HasField("idle_remaining")
    )
    if not complete:
        return None
    binding = message.binding
    return ActiveSession(
        payload=validator_pb2.ValidateResponse(session=message.session).SerializeToString(),
        user_id=message.session.user.id,
        binding=Binding(
            client_ip=binding.client_ip,
            key=binding.key,
            device_fingerprint=binding.device_fingerprint,
            user_agent=binding.user_agent,
        ),
        roles=frozenset(message.session.user.roles),
        authentication_age_ns=(
            _ns(message.authentication_age) if message.HasField("authentication_age") else _LONG_AGO_NS
        ),
        absolute_remaining_ns=_ns(message.absolute_remaining),
        idle_remaining_ns=_ns(message.idle_remaining),
    )


def _ns(duration: Duration) -> int:
    return duration.seconds * NS_PER_SECOND + duration.nanos


def _duration(nanoseconds: int) -> Duration:
    seconds, nanos = divmod(nanoseconds, NS_PER_SECOND)
    return Duration(seconds=seconds, nanos=nanos)
