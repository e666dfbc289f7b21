"""As `_channel`, for asyncio: a channel belongs to one event loop, so each loop of each process has its own.

**Forks.** gRPC's asyncio side does not survive a fork: what a child does with it then hangs. So before a fork the
channels of loops that have ended are let go, which ends that side if nobody else uses it; and a child of a process
that had one open refuses to open its own, instead of waiting for ever.
"""

import asyncio
import os
import weakref
from collections.abc import Coroutine
from typing import Any, ClassVar, Final, Generic, TypeVar

import grpc

from trustlayer._calls import CHANNEL_OPTIONS, Attempts, default_timeout
from trustlayer._channel import no_stream
from trustlayer.errors import CallFailed, Failure, closed, read_failure

Request = TypeVar("Request")
Response = TypeVar("Response")

_FORKED_TOO_LATE: Final = (
    "this process was forked while its parent had an asyncio client open, which gRPC does not survive: fork before"
    " the first call, close the client before, or start processes by `spawn`"
)


class _Opened:
    """A channel, and what calls its methods."""

    __slots__ = ("callables", "channel")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.callables: dict[str, Any] = {}


class _Process:
    """What is known of this process."""

    channels: ClassVar["weakref.WeakSet[LoopChannel]"] = weakref.WeakSet()
    pid = os.getpid()
    forked_too_late = False

    @classmethod
    def check(cls) -> None:
        """Raise `RuntimeError` where gRPC's asyncio side came over a fork alive.

        By the process id, because not every server tells Python that it forks: uWSGI does not.
        """
        pid = os.getpid()
        if pid != cls.pid:
            cls.forked_too_late = cls.forked_too_late or any(channel.is_open for channel in cls.channels)
            cls.pid = pid
        if cls.forked_too_late:
            raise RuntimeError(_FORKED_TOO_LATE)

    @classmethod
    def before_fork(cls) -> None:
        """Let go of what no loop uses any more."""
        for channel in list(cls.channels):
            channel.forget_ended_loops()


os.register_at_fork(before=_Process.before_fork)


class LoopChannel(grpc.aio.Channel):
    """See the module. Unary calls only: the sidecar relays no other."""

    def __init__(self, target: str, *, timeout: float, call_timeout: float) -> None:
        """Deadlines of calls that have none, in seconds: `timeout` of those to the sidecar itself."""
        self._target = target
        self._timeouts = (timeout, call_timeout)
        self._opened: dict[asyncio.AbstractEventLoop, _Opened] = {}
        self._closed = False
        _Process.channels.add(self)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def is_open(self) -> bool:
        """Whether there is a channel of any loop."""
        return bool(self._opened)

    def current(self) -> _Opened:
        """Give the running loop's channel. Raises `CallFailed` when closed, `RuntimeError` where it cannot work."""
        if self._closed:
            raise closed()
        _Process.check()
        loop = asyncio.get_running_loop()
        opened = self._opened.get(loop)
        if opened is None:
            self.forget_ended_loops()
            opened = _Opened(grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS))
            self._opened[loop] = opened
        return opened

    def forget_ended_loops(self) -> None:
        """Let go of what nobody can use any more."""
        for loop in list(self._opened):
            if loop.is_closed():
                self._opened.pop(loop, None)

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Give what calls the method; stubs ask for it."""
        return UnaryCall(self, method, default_timeout(method, *self._timeouts), arguments, named)

    def unary_stream(self, method: str, *_: Any, **__: Any) -> Any:
        """Give what says that there are no streams."""
        return no_stream(method)

    stream_unary = unary_stream
    stream_stream = unary_stream

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """State of the running loop's channel."""
        return self.current().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the running loop's channel has another state."""
        await self.current().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the running loop's channel is connected."""
        await self.current().channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close for good. Other loops' channels are left alone, but give no calls any more. May be called again."""
        self._closed = True
        opened = self._opened.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            await opened.channel.close(grace)

    async def __aenter__(self) -> "LoopChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class UnaryCall(Generic[Request, Response]):
    """One method: with a deadline, made again where that is safe, and failing with `CallFailed`."""

    def __init__(
        self, channel: LoopChannel, method: str, timeout: float, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._method = method
        self._timeout = timeout
        self._how = (arguments, named)

    def __call__(
        self, request: Request, timeout: float | None = None, **named: Any
    ) -> Coroutine[None, None, Response]:
        """Call, to be awaited. Seconds. Raises `CallFailed`; who is cancelled meanwhile gets `CancelledError`."""
        return self._call(request, self._timeout if timeout is None else timeout, named)

    def _callable(self) -> Any:
        """Give what calls the method in this loop; made once for each channel."""
        opened = self._channel.current()
        callable_ = opened.callables.get(self._method)
        if callable_ is None:
            arguments, named = self._how
            callable_ = opened.channel.unary_unary(self._method, *arguments, **named)
            opened.callables[self._method] = callable_
        return callable_

    async def _call(self, request: Request, seconds: float, named: dict[str, Any]) -> Response:
        attempts = Attempts(self._method, seconds)
        while True:
            try:
                response: Response | None = await self._callable()(request, timeout=attempts.time_left, **named)
            except grpc.RpcError as error:
                failure = read_failure(error)
                delay = attempts.delay_before_next(failure)
                if delay is None:
                    raise CallFailed(failure) from error
            except asyncio.CancelledError:
                if self._channel.is_closed and not _is_being_cancelled():
                    raise closed() from None  # by `close`, which gRPC tells like a cancellation
                raise
            else:
                if response is None:  # so grpc.aio says that it could not parse it
                    raise CallFailed(Failure(grpc.StatusCode.INTERNAL, message="the answer cannot be read"))
                return response
            await asyncio.sleep(delay)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
