"""Which calls of an app pass through to Flowless, and what passes with them.

Bytes pass in both directions unread. The app's deadline and cancellation pass, its request id passes, and nothing
else of its metadata: an app cannot bring an `authorization` of its own. The bridge credential is attached on the
way. Errors come back as Flowless sent them (code, text, details), except those about the bridge itself, which are
the operator's business and become UPSTREAM_REFUSED_BRIDGE, and those of the network, whose text is ours.

Only unary methods of three services can be relayed, and of those only the ones that the configuration lists.
"""

from collections.abc import Iterable
from typing import Any, Final, Protocol

import grpc
from google.protobuf import descriptor_pb2

from bridge_sidecar.upstream import RelayedResponse, refuses_bridge, revision_in
from trust_core import grpc_edge
from trust_core.errors import Reason, TrustError
from trustlayer.v1 import identity_pb2, session_pb2, trust_token_pb2

_SERVICES: Final = (
    identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
    trust_token_pb2.DESCRIPTOR.services_by_name["TrustTokenService"],
)
_MAKES_A_SESSION: Final = frozenset(
    ("/trustlayer.v1.SessionService/Login", "/trustlayer.v1.SessionService/RotateSession")
)
_REPEATABLE: Final = frozenset(
    f"/{service.full_name}/{method.name}"
    for service in _SERVICES
    for method in service.methods
    if method.GetOptions().idempotency_level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
)
Context = grpc_edge.Context


class UnknownMethodError(Exception):
    """The configuration lists a method that does not exist or cannot be relayed."""


class RelayTarget(Protocol):
    """Where calls go."""

    async def relay(
        self, method: str, request: bytes, *, timeout_seconds: float, repeatable: bool
    ) -> RelayedResponse:
        """Pass a call through, which may be made more than once if it is repeatable.

        Raises `grpc.aio.AioRpcError`.
        """
        ...

    def doubt_secret(self) -> None:
        """Note that the credential was refused."""
        ...


class WriteObserver(Protocol):
    """Who must know what relayed calls wrote."""

    @property
    def log_id(self) -> str:
        """The log that revisions belong to now."""
        ...

    def observe_revision(self, revision: int, *, log_id: str) -> None:
        """Note that a relayed call wrote the log, up to this revision."""
        ...

    def session_made(self) -> None:
        """Note that a relayed call made a session: what was unknown may be known now."""
        ...


def _known_methods() -> dict[str, str]:
    """Map `SessionService/Login` to the full path, for every unary method that could be relayed."""
    return {
        f"{service.name}/{method.name}": f"/{service.full_name}/{method.name}"
        for service in _SERVICES
        for method in service.methods
        if not method.client_streaming and not method.server_streaming
    }


def resolve(names: Iterable[str]) -> frozenset[str]:
    """Turn configured names (`SessionService/Login`, `SessionService/*`) into paths.

    Raises `UnknownMethodError`, which lists every name that is not a method that can be relayed.
    """
    known = _known_methods()
    allowed: set[str] = set()
    unknown: list[str] = []
    for name in names:
        service, _, method = name.partition("/")
        if method == "*":
            found = {path for short, path in known.items() if short.startswith(f"{service}/")}
        else:
            found = {known[name]} if name in known else set()
        allowed |= found
        if not found:
            unknown.append(name)
    if unknown:
        raise UnknownMethodError(f"relay: no such method: {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return frozenset(allowed)


class Relay(grpc.GenericRpcHandler):
    """Handles every method of the three services. Bounded: beyond `max_calls` at a time calls are refused."""

    def __init__(
        self,
        *,
        target: RelayTarget,
        observer: WriteObserver,
        allowed: frozenset[str],
        max_calls: int,
        default_timeout_seconds: float,
    ) -> None:
        self._target = target
        self._observer = observer
        self._max_calls = max_calls
        self._default_timeout_seconds = default_timeout_seconds
        self._calls = 0
        self._handlers: dict[str, grpc_edge.Handler] = {
            path: grpc.unary_unary_rpc_method_handler(self._passing(path) if path in allowed else _refusing(short))
            for short, path in _known_methods().items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc_edge.Handler | None":
        """Return the method's handler; `None` for methods of other services."""
        return self._handlers.get(handler_call_details.method)

    def _passing(self, path: str) -> grpc_edge.Behavior:
        async def pass_on(request: bytes, context: Context) -> bytes:
            if self._calls >= self._max_calls:
                raise TrustError(Reason.TOO_MANY_CALLS, "too many relayed calls are in flight")
            self._calls += 1
            try:
                return await self._pass_on(path, request, context)
            finally:
                self._calls -= 1

        return pass_on

    async def _pass_on(self, path: str, request: bytes, context: Context) -> bytes:
        remaining = context.time_remaining()
        log_id = self._observer.log_id
        try:
            response = await self._target.relay(
                path,
                request,
                timeout_seconds=self._default_timeout_seconds if remaining is None else remaining,
                repeatable=path in _REPEATABLE,
            )
        except grpc.aio.AioRpcError as error:
            revision = revision_in(error.trailing_metadata())
            self._observe(revision, log_id, context)
            await self._pass_back(error, context)
            raise AssertionError("unreachable: abort raises") from None
        self._observe(response.revision, log_id, context)
        if path in _MAKES_A_SESSION:
            self._observer.session_made()
        return response.data

    def _observe(self, revision: int, log_id: str, context: Context) -> None:
        if revision:
            self._observer.observe_revision(revision, log_id=log_id)
            context.set_trailing_metadata(((grpc_edge.REVISION_KEY, str(revision)),))

    async def _pass_back(self, error: grpc.aio.AioRpcError, context: Context) -> None:
        if refuses_bridge(error):
            self._target.doubt_secret()
            raise TrustError(
                Reason.UPSTREAM_REFUSED_BRIDGE,
                "Flowless refuses this sidecar's bridge credential, or it lacks the scope of this call",
            )
        if not grpc_edge.reason_of(error):
            raise _not_ours(error.code())
        passed: Any = tuple(
            (key, value)
            for key, value in error.trailing_metadata() or ()
            if key in (grpc_edge.STATUS_DETAILS_KEY, grpc_edge.REVISION_KEY)
        )
        known_as = (grpc_edge.REQUEST_ID_KEY, grpc_edge.request_id_of(context))
        await context.abort(error.code(), error.details() or "", (*passed, known_as))


def _not_ours(code: grpc.StatusCode) -> TrustError:
    """Give an error that does not come from Flowless itself our own words: its text may name or hold anything."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TrustError(Reason.DEADLINE_EXCEEDED, "Flowless did not answer before the call's deadline")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return TrustError(Reason.NOT_IMPLEMENTED, "Flowless does not know this method")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return TrustError(Reason.TOO_MANY_CALLS, "Flowless refuses the call: it is too large, or there are too many")
    return TrustError(Reason.UPSTREAM_UNAVAILABLE, "Flowless cannot be reached or does not answer as Flowless does")


def _refusing(short: str) -> grpc_edge.Behavior:
    async def refuse(_request: bytes, _context: Context) -> bytes:
        raise TrustError(Reason.METHOD_NOT_RELAYED, f"this sidecar's configuration does not relay {short}")

    return refuse
