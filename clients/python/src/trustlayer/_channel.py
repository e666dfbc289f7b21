"""A gRPC channel for stubs that is opened when it is used first, anew in each process, and keeps the rules of calls.

**Forks.** A channel that was opened before a fork does not work after it. So each process has its own: what a parent
opened stays where it is, untouched, for gRPC would wait for threads that a child does not have. No lock is held at
any time, for a lock that another thread held at the fork would never be free in the child.
"""

import os
import time
from collections.abc import Callable
from typing import Any, Final, Generic, NoReturn, TypeVar

import grpc

from trustlayer._calls import CHANNEL_OPTIONS, Attempts, default_timeout
from trustlayer.errors import CallFailed, closed, read_failure

Request = TypeVar("Request")
Response = TypeVar("Response")


class ProcessChannel(grpc.Channel):
    """See the module. Any thread may use it. Unary calls only: the sidecar relays no other."""

    def __init__(self, target: str, *, timeout: float, call_timeout: float) -> None:
        """Deadlines of calls that have none, in seconds: `timeout` of those to the sidecar itself."""
        self._target = target
        self._timeouts = (timeout, call_timeout)
        self._channels: dict[int, grpc.Channel] = {}
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def current(self) -> grpc.Channel:
        """Give this process' channel. Raises `CallFailed` when closed."""
        if self._closed:
            raise closed()
        pid = os.getpid()
        channel = self._channels.get(pid)
        if channel is None:
            # Two threads may come here at once; the one that is later closes its own, which never connected.
            fresh = grpc.insecure_channel(self._target, options=CHANNEL_OPTIONS)
            channel = self._channels.setdefault(pid, fresh)
            if channel is not fresh:
                fresh.close()
        return channel

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Give what calls the method; stubs ask for it."""
        return UnaryCall(self, method, default_timeout(method, *self._timeouts), arguments, named)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Give what says that there are no streams."""
        return no_stream(method)

    stream_unary = unary_stream
    stream_stream = unary_stream

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        """Subscribe to this process' channel."""
        self.current().subscribe(callback, try_to_connect=try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """Undo `subscribe`."""
        self.current().unsubscribe(callback)

    def close(self) -> None:
        """Close this process' channel, for good; calls in flight fail. May be called again."""
        self._closed = True
        channel = self._channels.pop(os.getpid(), None)
        if channel is not None:
            channel.close()

    def __enter__(self) -> "ProcessChannel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UnaryCall(Generic[Request, Response]):
    """One method: with a deadline, made again where that is safe, and failing with `CallFailed`."""

    def __init__(
        self,
        channel: ProcessChannel,
        method: str,
        timeout: float,
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> None:
        self._channel = channel
        self._method = method
        self._timeout = timeout
        self._how = (arguments, named)
        self._opened: tuple[grpc.Channel | None, Any] = (None, None)

    def __call__(self, request: Request, timeout: float | None = None, **named: Any) -> Response:
        """Call. Seconds. Raises `CallFailed`, or whatever interrupts the waiting thread."""
        response: Response = self._call(self._callable(), request, timeout, named)
        return response

    def with_call(self, request: Request, timeout: float | None = None, **named: Any) -> tuple[Response, grpc.Call]:
        """Call, and give the call too, for its metadata."""
        answered: tuple[Response, grpc.Call] = self._call(self._callable().with_call, request, timeout, named)
        return answered

    def future(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: futures of gRPC know neither our errors nor when to call again."""
        raise NotImplementedError("use an executor, or trustlayer.aio")

    def _callable(self) -> Any:
        """Give what calls the method in this process; made once for each channel."""
        channel = self._channel.current()
        opened, callable_ = self._opened
        if opened is not channel:
            arguments, named = self._how
            callable_ = channel.unary_unary(self._method, *arguments, **named)
            self._opened = (channel, callable_)
        return callable_

    def _call(self, call: Callable[..., Any], request: Request, timeout: float | None, named: dict[str, Any]) -> Any:
        attempts = Attempts(self._method, self._timeout if timeout is None else timeout)
        while True:
            try:
                return call(request, timeout=attempts.time_left, **named)
            except ValueError:  # so gRPC refuses a channel that another thread has just closed
                if not self._channel.is_closed:
                    raise
                raise closed() from None
            except grpc.RpcError as error:
                failure = read_failure(error)
                delay = attempts.delay_before_next(failure)
                if delay is None:
                    raise CallFailed(failure) from error
            time.sleep(delay)


_STREAMS: Final = "the sidecar relays no streams; call Flowless itself with a bridge credential"


def no_stream(method: str) -> Callable[..., NoReturn]:
    """Give what refuses to be called."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"{method}: {_STREAMS}")

    return refuse
