"""The one place where a call is allowed or refused: a bridge credential with the scope that the proto declares.

The check runs before the request message is read, let alone parsed: who brings no credential costs a look at the
metadata and holds nothing afterwards.

The table of required scopes is read from the method options of the services at start; an RPC without a scope that
a bridge can hold stops the start. Health and reflection are the only methods open to everyone. Whatever
is in neither table is refused.
"""

import contextvars
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from flowless.domain.audit import Actor
from flowless.domain.bridges import Bridge, Scope
from flowless.services.bridges import Bridges
from flowless.services.refusals import Refusals
from trust_core import logs, modes
from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import Context, Handler, refusing_handler, request_id_of
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
    """Who makes a call: the bridge, and the digest of the secret that it showed."""

    bridge: Bridge
    secret_digest: bytes


# grpc.aio runs the interceptors and the handler of a call in one task, and so in one context of their own.
_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")


def caller() -> Caller:
    """Name the maker of the running call."""
    return _caller.get()


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

    def __init__(self, *, bridges: Bridges, scopes: dict[str, Scope], refusals: Refusals) -> None:
        self._bridges = bridges
        self._refusals = refusals
        self._scopes = scopes
        self._log = logs.get_logger("flowless")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the method's handler, or one that refuses."""
        method = handler_call_details.method
        if method.rpartition("/")[0].removeprefix("/") in PUBLIC_SERVICES:
            return await continuation(handler_call_details)
        try:
            await self._allow(handler_call_details, method)
        except TrustError as error:
            known = _caller.get(None)
            await self._refusals.note(
                error,
                method=method if method in self._scopes else "",
                bridge_id="" if known is None else known.bridge.id,
            )
            return refusing_handler(error)
        except Exception as error:  # noqa: BLE001 - the text of an unexpected exception stays inside
            self._log.error("authorization failed unexpectedly", **logs.describe_exception(error))
            return refusing_handler(TrustError(Reason.INTERNAL, "internal error"))
        return await continuation(handler_call_details)

    async def _allow(self, details: grpc.HandlerCallDetails, method: str) -> None:
        secret = _credential(details)
        bridge = await self._bridges.authenticate(secret)
        _caller.set(Caller(bridge, digest(secret)))
        scope = self._scopes.get(method)
        if scope is None:
            raise TrustError(Reason.NOT_IMPLEMENTED, "this Flowless has no such RPC")
        if scope not in bridge.scopes:
            raise TrustError(Reason.SCOPE_MISSING, f"the bridge lacks the scope that this RPC needs: {scope.name}")


def _credential(details: grpc.HandlerCallDetails) -> str:
    values = [value for key, value in details.invocation_metadata or () if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].lower().startswith(_BEARER):
        raise TrustError(
            Reason.BRIDGE_CREDENTIAL_MISSING, "send exactly one `authorization: Bearer brdg_…` with the call"
        )
    return values[0][len(_BEARER) :]
