"""The one place where a call is allowed or refused: a bridge credential with the scope that the proto declares.

The table of required scopes is read from the method options of the services at start; an RPC without a scope that
a bridge can hold stops the start. Health and reflection are the only methods open to everyone. Whatever
is in neither table is refused.
"""

import contextvars
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from flowless.domain.bridges import Bridge, Scope
from flowless.services.bridges import Bridges
from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import Behavior, Context, Handler
from trustlayer.v1 import options_pb2

_BEARER: Final = "bearer "
PUBLIC_SERVICES: Final = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "grpc.reflection.v1.ServerReflection",
)

_caller: contextvars.ContextVar[Bridge] = contextvars.ContextVar("caller")


def caller() -> Bridge:
    """Name the bridge that makes the running call."""
    return _caller.get()


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
    """See the module. Wraps each method's handler; the check runs on every call."""

    def __init__(self, *, bridges: Bridges, scopes: dict[str, Scope]) -> None:
        self._bridges = bridges
        self._scopes = scopes

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the method's handler behind the check."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or method.rpartition("/")[0].removeprefix("/") in PUBLIC_SERVICES:
            return handler
        scope = self._scopes.get(method)
        if inspect.iscoroutinefunction(handler.unary_unary):
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, scope), handler.request_deserializer, handler.response_serializer
            )
        if inspect.isasyncgenfunction(handler.unary_stream):
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, scope), handler.request_deserializer, handler.response_serializer
            )
        if inspect.isasyncgenfunction(handler.stream_stream):
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream, scope), handler.request_deserializer, handler.response_serializer
            )
        # Nothing of ours is of another kind; if it were, it must not be served unchecked.
        return None

    def _unary(self, behavior: Behavior, scope: Scope | None) -> Behavior:
        async def checked(request: Any, context: Context) -> Any:
            _caller.set(await self._allow(context, scope))
            return await behavior(request, context)

        return checked

    def _stream(self, behavior: Behavior, scope: Scope | None) -> Behavior:
        async def checked(request: Any, context: Context) -> AsyncIterator[Any]:
            _caller.set(await self._allow(context, scope))
            async for response in behavior(request, context):
                yield response

        return checked

    async def _allow(self, context: Context, scope: Scope | None) -> Bridge:
        bridge = await self._bridges.authenticate(_credential(context))
        if scope is None or scope not in bridge.scopes:
            needed = "none that a bridge can hold" if scope is None else scope.name
            raise TrustError(Reason.SCOPE_MISSING, f"the bridge lacks the scope that this RPC needs: {needed}")
        return bridge


def _credential(context: Context) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].lower().startswith(_BEARER):
        raise TrustError(
            Reason.BRIDGE_CREDENTIAL_MISSING, "send exactly one `authorization: Bearer brdg_…` with the call"
        )
    return values[0][len(_BEARER) :]
