"""The one place where a call is allowed or refused: a bridge credential with the scope that the proto declares.

The check runs before the request message is read, let alone parsed: who brings no credential costs a look at the
metadata and holds nothing afterwards. What the connection's certificate says is known only where the call's context
is, which grpc.aio gives to handlers and not to interceptors. So the interceptor puts a handler of its own before
those of streams and of bridges that are bound to a client; it, too, runs before any message is read (`_admitting`).

A stream outlives the check at the door: `OpenStreams` holds it, and cuts it when its credential is no longer good.

The table of required scopes is read from the method options of the services at start; an RPC without a scope that
a bridge can hold stops the start. Health and reflection are the only methods open to everyone. Whatever
is in neither table is refused.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from flowless.domain.audit import Actor
from flowless.domain.bridges import NO_CERTIFICATE, Bridge, ClientCertificate, Scope
from flowless.services.bridges import Bridges
from flowless.services.open_streams import OpenStreams
from flowless.services.refusals import Refusals
from trust_core import logs, modes
from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import (
    Behavior,
    CallObserver,
    Context,
    Handler,
    abort,
    refuse,
    refusing_handler,
    request_id_of,
)
from trust_core.identifiers import digest
from trustlayer.v1 import options_pb2

_BEARER: Final = "bearer "
PUBLIC_SERVICES: Final = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.reflection.v1.ServerReflection",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call: the bridge, the digest of the secret that it showed, and whose certificate it has.

    The certificate is known of streams and of bridges that are bound.
    """

    bridge: Bridge
    secret_digest: bytes
    certificate: ClientCertificate = NO_CERTIFICATE


# grpc.aio runs the interceptors and the handler of a call in one task, and so in one context of their own.
_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")


def caller() -> Caller:
    """Name the maker of the running call."""
    return _caller.get()


def calling_bridge() -> str:
    """Id of the bridge that makes the running call; empty where it showed no credential that is known."""
    known = _caller.get(None)
    return "" if known is None else known.bridge.id


def actor(context: Context, *, client_ip: str = "") -> Actor:
    """Say who makes the running call, for the audit log; `client_ip` is the person's, if the request tells it."""
    return Actor.of_bridge(
        caller().bridge.id,
        request_id=request_id_of(context),
        # One spelling of each address, and nothing that is none.
        client_ip=modes.unpack_ip(modes.pack_ip(client_ip) or b""),
    )


class ScopeTableError(Exception):
    """A service cannot be served because an RPC declares no scope that a bridge can hold."""


def required_scopes(services: Iterable[ServiceDescriptor]) -> dict[str, Scope]:
    """Full method name -> declared scope. Raises ScopeTableError for an RPC without one."""
    table: dict[str, Scope] = {}
    for service in services:
        for method in service.methods:
            declared = method.GetOptions().Extensions[options_pb2.scope]
            try:
                table[f"/{service.full_name}/{method.name}"] = Scope(declared)
            except ValueError:
                raise ScopeTableError(f"{method.full_name} declares no scope that a bridge can hold") from None
    return table


class Authorization(grpc.aio.ServerInterceptor):
    """See the module. Give it to the server as the first interceptor."""

    def __init__(
        self,
        *,
        bridges: Bridges,
        scopes: dict[str, Scope],
        refusals: Refusals,
        streams: OpenStreams,
        observers: Sequence[CallObserver] = (),
    ) -> None:
        """`observers` are told of the calls that are refused here; of all others the error boundary tells them."""
        self._observers = tuple(observers)
        self._bridges = bridges
        self._refusals = refusals
        self._scopes = scopes
        self._streams = streams
        self._log = logs.get_logger("flowless")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the method's handler, one that looks at the certificate first, or one that refuses."""
        method = handler_call_details.method
        if method.rpartition("/")[0].removeprefix("/") in PUBLIC_SERVICES:
            return await continuation(handler_call_details)
        try:
            made_by = await self._authenticate(handler_call_details)
            # Who has a bound bridge's secret and not its certificate is not even told what the bridge may do.
            bound = bool(made_by.bridge.client_id)
            if not bound:
                self._require_scope(made_by.bridge, method)
        except TrustError as error:
            await self._note(error, method)
            return self._refusing(error, method)
        except Exception as error:  # noqa: BLE001 - the text of an unexpected exception stays inside
            self._log.error("authorization failed unexpectedly", **logs.describe_exception(error))
            return self._refusing(TrustError(Reason.INTERNAL, "internal error"), method)
        handler = await continuation(handler_call_details)
        if handler is None:
            handler = self._refusing(_not_served(), method)
        return self._admitting(handler, method, made_by) if bound or _lasts(handler) else handler

    async def _authenticate(self, details: grpc.HandlerCallDetails) -> Caller:
        secret = _credential(details)
        bridge = await self._bridges.authenticate(secret)
        made_by = Caller(bridge, digest(secret))
        _caller.set(made_by)
        return made_by

    def _require_scope(self, bridge: Bridge, method: str) -> None:
        scope = self._scopes.get(method)
        if scope is None:
            raise _not_served()
        if scope not in bridge.scopes:
            raise TrustError(Reason.SCOPE_MISSING, f"the bridge lacks the scope that this RPC needs: {scope.name}")

    def _served(self, method: str) -> str:
        """Name the method if it is one of ours: a name that a caller invents is written down nowhere."""
        return method if method in self._scopes else ""

    def _refusing(self, error: TrustError, method: str) -> Handler:
        return refusing_handler(error, method=self._served(method), observers=self._observers)

    async def _note(self, error: TrustError, method: str) -> None:
        known = _caller.get(None)
        await self._refusals.note(
            error,
            method=self._served(method),
            bridge_id="" if known is None else known.bridge.id,
        )

    def _admitting(self, handler: Handler, method: str, made_by: Caller) -> Handler:
        """Make a handler that looks at the connection's certificate, and then at the scope, before the call's own.

        Registered as a stream, whatever the call is: a unary handler would be given its message first.
        """
        behavior, lasts = _as_stream(handler), _lasts(handler)
        expired = TrustError(Reason.BRIDGE_CREDENTIAL_REFUSED, "the bridge credential is no longer valid")

        async def admit(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            certificate = _certificate(context)
            try:
                self._bridges.require_certificate(made_by.bridge, made_by.secret_digest, certificate)
                self._require_scope(made_by.bridge, method)
            except TrustError as error:
                await self._note(error, method)
                await refuse(context, error, method=self._served(method), observers=self._observers)
            _caller.set(replace(made_by, certificate=certificate))
            if not lasts:
                async for response in behavior(requests, context):
                    yield response
                return
            stream = self._streams.hold(
                bridge_id=made_by.bridge.id, secret_digest=made_by.secret_digest, certificate=certificate
            )
            try:
                async for response in behavior(requests, context):
                    yield response
            except asyncio.CancelledError:
                if stream.cut:
                    await abort(context, expired, request_id_of(context))
                raise

        return grpc.stream_stream_rpc_method_handler(admit, handler.request_deserializer, handler.response_serializer)


def _not_served() -> TrustError:
    return TrustError(Reason.NOT_IMPLEMENTED, "this Flowless has no such RPC")


def _lasts(handler: Handler) -> bool:
    return bool(handler.request_streaming or handler.response_streaming)


def _as_stream(handler: Handler) -> Behavior:
    """Behavior of a handler of any kind, as that of a stream of messages to a stream of messages."""
    # The stubs declare the behaviors of grpc's other, threaded server.
    kinds: tuple[Any, ...] = (
        handler.stream_stream,
        handler.unary_stream,
        handler.stream_unary,
        handler.unary_unary,
    )
    behavior: Behavior = next(filter(None, kinds))

    async def stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        request = requests if handler.request_streaming else await _only(requests, context)
        if handler.response_streaming:
            async for response in behavior(request, context):
                yield response
        else:
            yield await behavior(request, context)

    return stream


async def _only(requests: AsyncIterator[Any], context: Context) -> Any:
    request = await anext(requests, None)
    if request is None:
        missing = TrustError(Reason.MALFORMED_MESSAGE, "this RPC takes one request message")
        await abort(context, missing, request_id_of(context))
    return request


def _certificate(context: Context) -> ClientCertificate:
    """Read what TLS has verified. Kinds of names stand apart there; one list of all would let them be mixed up."""
    properties = context.auth_context()
    return ClientCertificate(
        spiffe_ids=_texts(properties.get("peer_spiffe_id")), dns_names=_texts(properties.get("peer_dns"))
    )


def _texts(values: Iterable[bytes] | None) -> frozenset[str]:
    return frozenset(value.decode("ascii", "replace") for value in values or ())


def _credential(details: grpc.HandlerCallDetails) -> str:
    values = [value for key, value in details.invocation_metadata or () if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].lower().startswith(_BEARER):
        raise TrustError(
            Reason.BRIDGE_CREDENTIAL_MISSING, "send exactly one `authorization: Bearer brdg_…` with the call"
        )
    return values[0][len(_BEARER) :]
