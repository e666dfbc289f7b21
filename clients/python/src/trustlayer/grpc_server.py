"""Interceptors of gRPC servers, with and without asyncio.

    grpc.aio.server(interceptors=[AioSessionInterceptor(aio.Client(SOCKET), methods={"/grpc.health.v1.Health/*":
    PUBLIC})])

Methods are called with a session, or not at all; of a stream its beginning is validated. It is `current_session()` in the handler; `None` where a method
needs none. The session id comes as metadata `authorization: Bearer …`, or as a cookie from browsers that speak
gRPC-Web.
"""

import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

import grpc

from trustlayer import aio
from trustlayer.client import Client
from trustlayer.errors import CallFailed, SessionDenied, ValidatorUnavailable
from trustlayer.guard import PUBLIC, Need, Outcome, Refused, Routes
from trustlayer.http_requests import Carried, RequestReader
from trustlayer.v1 import types_pb2

__all__ = ["PUBLIC", "AioSessionInterceptor", "Need", "SessionInterceptor", "current_session"]

REASON_KEY: Final = "trustlayer-reason"
"""Trailing metadata of what is refused: why, for programs."""

_session: contextvars.ContextVar[types_pb2.Session | None] = contextvars.ContextVar(
    "trustlayer_session", default=None
)


def current_session() -> types_pb2.Session | None:
    """Give the session with which the call that is being handled has passed."""
    return _session.get()


class _Interceptor:
    """What both kinds share: what a method needs, and what a call carries."""

    def __init__(
        self,
        *,
        need: Need | None,
        methods: Mapping[str, Need] | None,
        session_id_from: Sequence[str],
        trusted_proxies: Sequence[str],
        device_fingerprint_header: str,
    ) -> None:
        self._methods = Routes(need or Need(), methods or {})
        self._reader = RequestReader(
            session_id_from=session_id_from,
            trusted_proxies=trusted_proxies,
            device_fingerprint_header=device_fingerprint_header,
        )

    def _carried(self, context: Any) -> Carried:
        headers: dict[str, list[str]] = {}
        for name, value in context.invocation_metadata() or ():
            if isinstance(value, str):
                headers.setdefault(name.lower(), []).append(value)
        return self._reader.read(headers, peer=_address_of(context.peer()))


class SessionInterceptor(_Interceptor, grpc.ServerInterceptor):
    """Of `grpc.server`. See the module."""

    def __init__(
        self,
        client: Client,
        *,
        need: Need | None = None,
        methods: Mapping[str, Need] | None = None,
        session_id_from: Sequence[str] = ("cookie:session_id", "bearer"),
        trusted_proxies: Sequence[str] = (),
        device_fingerprint_header: str = "x-device-fingerprint",
    ) -> None:
        """`need` is what every method needs but those that `methods` names, `/package.Service/Method` or `…/*`.

        Where the rest is read from: see `RequestReader`. Raises `ValueError` for what cannot be used.
        """
        super().__init__(
            need=need,
            methods=methods,
            session_id_from=session_id_from,
            trusted_proxies=trusted_proxies,
            device_fingerprint_header=device_fingerprint_header,
        )
        self._client = client

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Put the validation before the method's handler."""
        handler = continuation(handler_call_details)
        need = self._methods.need_of(handler_call_details.method)
        if handler is None or need.public:
            return handler
        behavior, kind = _parts(handler)

        def answer_one(request: Any, context: grpc.ServicerContext) -> Any:
            return self._inside(need, context).run(behavior, request, context)

        def answer_many(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            inside = self._inside(need, context)
            answers = iter(inside.run(behavior, request, context))
            # Each step may run in another thread of the server.
            while (answer := inside.run(next, answers, _END)) is not _END:
                yield answer

        return _rebuilt(handler, answer_many if handler.response_streaming else answer_one, kind)

    def _inside(self, need: Need, context: grpc.ServicerContext) -> contextvars.Context:
        """Give the context variables in which the handler runs; ends the call where it does not pass."""
        inside = contextvars.copy_context()
        try:
            inside.run(_session.set, self._session_for(need, context))
        except Refused as refused:
            context.set_trailing_metadata(((REASON_KEY, refused.reason),))
            context.abort(refused.code, refused.message or refused.reason)
        return inside

    def _session_for(self, need: Need, context: grpc.ServicerContext) -> types_pb2.Session | None:
        asked = need.arguments(self._carried(context))
        if asked is None:
            return None
        answer: Outcome
        try:
            answer = self._client.validate(**asked)
        except (SessionDenied, ValidatorUnavailable, CallFailed) as error:
            answer = error
        return need.settle(answer)


class AioSessionInterceptor(_Interceptor, grpc.aio.ServerInterceptor):
    """Of `grpc.aio.server`. See the module."""

    def __init__(
        self,
        client: aio.Client,
        *,
        need: Need | None = None,
        methods: Mapping[str, Need] | None = None,
        session_id_from: Sequence[str] = ("cookie:session_id", "bearer"),
        trusted_proxies: Sequence[str] = (),
        device_fingerprint_header: str = "x-device-fingerprint",
    ) -> None:
        """As `SessionInterceptor`."""
        super().__init__(
            need=need,
            methods=methods,
            session_id_from=session_id_from,
            trusted_proxies=trusted_proxies,
            device_fingerprint_header=device_fingerprint_header,
        )
        self._client = client

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the validation before the method's handler."""
        handler = await continuation(handler_call_details)
        need = self._methods.need_of(handler_call_details.method)
        if handler is None or need.public:
            return handler
        behavior, kind = _parts(handler)

        async def answer_one(request: Any, context: Any) -> Any:
            await self._enter(need, context)
            return await behavior(request, context)

        async def answer_many(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._enter(need, context)
            answers = behavior(request, context)
            if hasattr(answers, "__aiter__"):
                async for answer in answers:
                    yield answer
            else:
                await answers  # a handler that writes by `context.write`

        return _rebuilt(handler, answer_many if handler.response_streaming else answer_one, kind)

    async def _enter(self, need: Need, context: Any) -> None:
        """Set the session of this call's task; ends the call where it does not pass."""
        try:
            _session.set(await self._session_for(need, context))
        except Refused as refused:
            await context.abort(refused.code, refused.message or refused.reason, ((REASON_KEY, refused.reason),))

    async def _session_for(self, need: Need, context: Any) -> types_pb2.Session | None:
        asked = need.arguments(self._carried(context))
        if asked is None:
            return None
        answer: Outcome
        try:
            answer = await self._client.validate(**asked)
        except (SessionDenied, ValidatorUnavailable, CallFailed) as error:
            answer = error
        return need.settle(answer)


_END: Final = object()
_KINDS: Final = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def _parts(handler: Any) -> tuple[Callable[..., Any], str]:
    kind = _KINDS[handler.request_streaming, handler.response_streaming]
    return getattr(handler, kind), kind


def _rebuilt(handler: Any, behavior: Callable[..., Any], kind: str) -> Any:
    """Give a handler like the one that is there, with another behaviour."""
    make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(
        behavior,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _address_of(peer: str) -> str:
    """Take the address out of gRPC's name of a peer, `ipv4:192.0.2.1:80` or `ipv6:[::1]:80`; empty for a socket."""
    kind, _, place = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return place.rpartition(":")[0].strip("[]")
