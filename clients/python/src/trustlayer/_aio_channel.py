"""As `_channel`, for asyncio: a channel belongs to one event loop, so each loop of each process has its own."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

import grpc

from trustlayer._calls import CHANNEL_OPTIONS, Attempts, default_timeout
from trustlayer._channel import no_stream
from trustlayer.errors import CallFailed, read_failure

Request = TypeVar("Request")
Response = TypeVar("Response")

_Home = tuple[int, asyncio.AbstractEventLoop]


class LoopChannel(grpc.aio.Channel):
    """See the module. Unary calls only: the sidecar relays no other."""

    def __init__(self, target: str, *, timeout: float, call_timeout: float) -> None:
        """Deadlines of calls that have none, in seconds: `timeout` of those to the sidecar itself."""
        self._target = target
        self._timeouts = (timeout, call_timeout)
        self._channels: dict[_Home, grpc.aio.Channel] = {}
        self._closed = False

    def current(self) -> grpc.aio.Channel:
        """Give the running loop's channel. Raises `RuntimeError` when closed, or where no loop runs."""
        if self._closed:
            raise RuntimeError("the client is closed")
        home = (os.getpid(), asyncio.get_running_loop())
        channel = self._channels.get(home)
        if channel is None:
            self._forget_ended_loops(home[0])
            channel = self._channels[home] = grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        return channel

    def _forget_ended_loops(self, pid: int) -> None:
        for home in list(self._channels):
            if home[0] == pid and home[1].is_closed():
                self._channels.pop(home, None)

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
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the running loop's channel has another state."""
        await self.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the running loop's channel is connected."""
        await self.current().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Close for good. Other loops' channels are left alone, but give no calls any more. May be called again."""
        self._closed = True
        channel = self._channels.pop((os.getpid(), asyncio.get_running_loop()), None)
        if channel is not None:
            await channel.close(grace)

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
        self._opened: tuple[grpc.aio.Channel | None, Any] = (None, None)

    def __call__(
        self, request: Request, timeout: float | None = None, **named: Any
    ) -> Coroutine[None, None, Response]:
        """Call, to be awaited. Seconds. Raises `CallFailed`; who is cancelled meanwhile gets `CancelledError`."""
        return self._call(request, self._timeout if timeout is None else timeout, named)

    def _callable(self) -> Any:
        """Give what calls the method in this loop; made once for each channel."""
        channel = self._channel.current()
        opened, callable_ = self._opened
        if opened is not channel:
            arguments, named = self._how
            callable_ = channel.unary_unary(self._method, *arguments, **named)
            self._opened = (channel, callable_)
        return callable_

    async def _call(self, request: Request, seconds: float, named: dict[str, Any]) -> Response:
        attempts = Attempts(self._method, seconds)
        while True:
            try:
                response: Response = await self._callable()(request, timeout=attempts.time_left, **named)
            except grpc.RpcError as error:
                failure = read_failure(error)
                delay = attempts.delay_before_next(failure)
                if delay is None:
                    raise CallFailed(failure) from error
            else:
                return response
            await asyncio.sleep(delay)
