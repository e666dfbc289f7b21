"""The gRPC edge that both servers share: where errors of ours become google.rpc details and others stay inside.

`ErrorBoundary` is the interceptor next to the handlers. It wraps each method's handler once (not each call) and
gives it

- a request id: the caller's `x-request-id` if it is harmless, else a new one, made once somebody needs it (see
  `request_ids`); logged, sent with every error, and in the trailing metadata of every answer that something was
  written about under this id;
- a deserializer that cannot raise: bytes that are not the message become MALFORMED_MESSAGE, with no parser text;
- the mapping `TrustError` -> status with ErrorInfo, BadRequest, RetryInfo and RequestInfo;
- INTERNAL for everything else, with the request id and not a word of the exception;
- observers, if there are any, who are told of each call when it begins and how it ended.

Handlers run in one event loop. The boundary's table of wrapped handlers is touched by that loop only.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NoReturn, Protocol, TypeAlias

import grpc
import structlog
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from trust_core import logs, request_ids
from trust_core.errors import Code, Reason, TrustError

DOMAIN: Final = "trustlayer"
REQUEST_ID_KEY: Final = request_ids.METADATA_KEY
REVISION_KEY: Final = "trustlayer-revision"
"""Trailing metadata of every call that wrote the revocation log: the revision it wrote."""
STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
REASON_KEY: Final = "trustlayer-reason"
"""Trailing metadata of every error of ours: the reason alone, for proxies that do not look into the details."""

_GRPC_CODES: Final = {code: grpc.StatusCode[code.value] for code in Code}

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
Behavior = Callable[..., Any]


class ObservedCall(Protocol):
    """One call, as an observer sees it."""

    def finish(self, code: str, reason: str) -> None:
        """Note the end; told exactly once, and must not raise.

        `code` is the name of a gRPC status. `reason` is that of an error of ours and else empty; it may come from a
        Flowless that knows more reasons than this program. CANCELLED and DEADLINE_EXCEEDED are what became of calls
        whose caller went away; so are streams that this server cuts. The end of a stream may be told in another task
        than its beginning, with other context variables.
        """
        ...


class CallObserver(Protocol):
    """Who wants to know of calls: counts them, or times them, or traces them."""

    def begin(self, method: str, context: Context) -> ObservedCall:
        """Note a call in the task that handles it, before anything is done. Must not raise.

        `method` is the full name of one that is served (`/package.Service/Method`), and empty for whatever a caller
        may have invented.
        """
        ...


_DEADLINE_MARGIN_SECONDS: Final = 0.05
"""A caller's own timer ends a call a moment before ours would."""


class _Observed:
    """Tells the observers of the call that is made inside. A class, since it costs half of what a generator does."""

    __slots__ = ("_calls", "_context")

    def __init__(self, method: str, context: Context, observers: Sequence[CallObserver]) -> None:
        self._context = context
        _known_as(context)  # observers may ask for the id
        self._calls = [observer.begin(method, context) for observer in observers]

    def __enter__(self) -> None:
        """Nothing is left to do."""

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        code, reason = ("OK", "") if error is None else _end_of(error, self._context)
        for call in reversed(self._calls):
            call.finish(code, reason)


def _end_of(error: BaseException, context: Context) -> tuple[str, str]:
    """Code and reason with which the exception ends the call for its caller."""
    if isinstance(error, grpc.aio.AbortError):
        # What `abort` was given. The stubs do not know that it may be asked for.
        said: Any = context
        return said.code().name, _reason_in(said.trailing_metadata())
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        left = context.time_remaining()
        if left is not None and left <= _DEADLINE_MARGIN_SECONDS:
            return grpc.StatusCode.DEADLINE_EXCEEDED.name, ""
        return grpc.StatusCode.CANCELLED.name, ""
    return grpc.StatusCode.UNKNOWN.name, ""


class _Malformed:
    """Stands for a request whose bytes are not the message."""


_MALFORMED: Final = _Malformed()


def request_id_of(context: Context) -> str:
    """Take the caller's request id when it is short and harmless, else make one; the same throughout a call."""
    # grpc.aio runs each call, its interceptors included, in a task of its own.
    return _known_as(context).get()


def _known_as(context: Context) -> request_ids.RequestId:
    return request_ids.running() or request_ids.begin(request_ids.RequestId(context))


def status_of(error: TrustError, request_id: str) -> status_pb2.Status:
    """Express the error as google.rpc.Status with its details."""
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.violations
                ]
            )
        )
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=_GRPC_CODES[error.code].value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def abort(context: Context, error: TrustError, request_id: str) -> NoReturn:
    """End the call with the error and its details."""
    status = status_of(error, request_id)
    trailing = (
        (STATUS_DETAILS_KEY, status.SerializeToString()),
        (REASON_KEY, error.reason.value),
        (REQUEST_ID_KEY, request_id),
    )
    await context.abort(_GRPC_CODES[error.code], error.message, trailing)
    raise AssertionError("unreachable: abort raises")


async def refuse(
    context: Context, error: TrustError, *, method: str = "", observers: Sequence[CallObserver] = ()
) -> NoReturn:
    """End a call that no handler of ours is given, and tell the observers. `method` as for `CallObserver.begin`."""
    with _Observed(method, context, observers):
        await abort(context, error, request_id_of(context))
    raise AssertionError("unreachable: abort raises")


def refusing_handler(error: TrustError, *, method: str = "", observers: Sequence[CallObserver] = ()) -> "Handler":
    """Make a handler that ends a call of any kind with the error, without waiting for any message of the caller.

    Registered as a stream: a unary handler would first wait for a request that may never come.
    """

    async def refuse_it(_: AsyncIterator[bytes], context: Context) -> None:
        await refuse(context, error, method=method, observers=observers)

    return grpc.stream_stream_rpc_method_handler(refuse_it)


def reason_of(error: grpc.RpcError) -> str:
    """Find the ErrorInfo reason in an error that a server of ours sent; empty when it carries none."""
    return _reason_in(error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None)


def _reason_in(trailing: Any) -> str:
    for key, value in trailing or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
                for detail in status.details:
                    info = error_details_pb2.ErrorInfo()
                    if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
                        return str(info.reason)
            except message.DecodeError:
                return ""
    return ""


def _safe_deserializer(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def safely(data: bytes) -> Any:
        try:
            return deserialize(data)
        except Exception:  # noqa: BLE001 - any parser failure means the same, and its text must not leave
            return _MALFORMED

    return safely


def _refuse_malformed(request: object) -> None:
    if request is _MALFORMED:
        raise TrustError(
            Reason.MALFORMED_MESSAGE, "the bytes are not this RPC's request message; strings must be UTF-8"
        )


async def _refuse_malformed_in(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _refuse_malformed(request)
        yield request


def _tell(request_id: request_ids.RequestId, context: Context) -> None:
    """Send the id with the answer if anything is known by it; most answers from memory leave nothing behind."""
    if request_id.used:
        context.set_trailing_metadata((*(context.trailing_metadata() or ()), (REQUEST_ID_KEY, request_id.used)))


class ErrorBoundary(grpc.aio.ServerInterceptor):
    """See the module. Give it to the server as the last interceptor."""

    def __init__(self, *, program: str, observers: Sequence[CallObserver] = ()) -> None:
        """`observers` are told of all calls that reach a handler; without any, none of this costs a call anything."""
        self._observers = tuple(observers)
        self._log = logs.get_logger(program)
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the method's handler, wrapped once and kept.

        Only methods that exist are kept, so a caller who invents names cannot grow the table.
        """
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return handler
            wrapped = self._wrap(method, handler)
            self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        deserialize = _safe_deserializer(handler.request_deserializer)
        serialize = handler.response_serializer
        # Behaviors of another kind (grpcio's own health and reflection servicers) stay as they are.
        if inspect.isasyncgenfunction(handler.stream_stream):
            behavior = self._streaming(method, handler.stream_stream, stream_in=True)
            return grpc.stream_stream_rpc_method_handler(behavior, deserialize, serialize)
        if inspect.isasyncgenfunction(handler.unary_stream):
            behavior = self._streaming(method, handler.unary_stream, stream_in=False)
            return grpc.unary_stream_rpc_method_handler(behavior, deserialize, serialize)
        if inspect.iscoroutinefunction(handler.unary_unary):
            behavior = self._unary(method, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(behavior, deserialize, serialize)
        return handler

    def _unary(self, method: str, behavior: Behavior) -> Behavior:
        async def guarded(request: Any, context: Context) -> Any:
            request_id = _known_as(context)
            try:
                _refuse_malformed(request)
                response = await behavior(request, context)
                _tell(request_id, context)
                return response
            except Exception as error:  # noqa: BLE001 - this is the boundary
                await self._fail(method, context, error)

        if not self._observers:
            return guarded

        async def observed(request: Any, context: Context) -> Any:
            with _Observed(method, context, self._observers):
                return await guarded(request, context)

        return observed

    def _streaming(self, method: str, behavior: Behavior, *, stream_in: bool) -> Behavior:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            request_id = _known_as(context)
            try:
                if stream_in:
                    request = _refuse_malformed_in(request)
                else:
                    _refuse_malformed(request)
                async for response in behavior(request, context):
                    yield response
                _tell(request_id, context)
            except Exception as error:  # noqa: BLE001 - this is the boundary
                await self._fail(method, context, error)

        if not self._observers:
            return guarded

        async def observed(request: Any, context: Context) -> AsyncIterator[Any]:
            with _Observed(method, context, self._observers):
                async for response in guarded(request, context):
                    yield response

        return observed

    async def _fail(self, method: str, context: Context, error: Exception) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        request_id = request_id_of(context)
        with structlog.contextvars.bound_contextvars(method=method):
            if isinstance(error, TrustError):
                if error.reason is Reason.INTERNAL:
                    self._log.error("call failed", reason=error.reason.value)
                else:
                    self._log.debug("call refused", reason=error.reason.value)
                await abort(context, error, request_id)
            self._log.error("call failed unexpectedly", **logs.describe_exception(error))
        await abort(
            context,
            TrustError(Reason.INTERNAL, f"internal error; quote request id {request_id} to the operator"),
            request_id,
        )
