"""What observers of calls are told, on a real server and a real socket: each call once, whatever becomes of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.sidecar import until
from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import Context, ErrorBoundary, refusing_handler

UNARY, STREAM, ANSWERS, REFUSED = "/a.Service/Unary", "/a.Service/Stream", "/a.Service/Answers", "/a.Service/Refused"


class Recorder:
    """Keeps what it is told: the method at the beginning, all of it at the end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[tuple[str, str, str]] = []

    def begin(self, method: str, context: Context) -> "_Recorded":
        assert context.peer()
        self.begun.append(method)
        return _Recorded(self, method)


class _Recorded:
    def __init__(self, recorder: Recorder, method: str) -> None:
        self._recorder = recorder
        self._method = method

    def finish(self, code: str, reason: str) -> None:
        self._recorder.ended.append((self._method, code, reason))


class Service:
    """Answers once in every kind of RPC, then does what the test asks: nothing, fail, or hang."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.hangs = False
        self.aborts = False

    async def _act(self, context: Context) -> None:
        if self.fails is not None:
            raise self.fails
        if self.aborts:
            await context.abort(grpc.StatusCode.DATA_LOSS, "as upstream said")
        if self.hangs:
            await asyncio.sleep(60)

    async def unary(self, _: bytes, context: Context) -> bytes:
        await self._act(context)
        return b"answer"

    async def stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield b"answer"
            await self._act(context)

    async def answers(self, _: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"answer"
        await self._act(context)


@pytest.fixture
def observers() -> list[Recorder]:
    return [Recorder(), Recorder()]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def channel(run_dir: Path, service: Service, observers: list[Recorder]) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[ErrorBoundary(program="observed", observers=observers)])
    refused = refusing_handler(TrustError(Reason.SCOPE_MISSING, "no"), method=REFUSED, observers=observers)
    handlers: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(service.unary),
        "Stream": grpc.stream_stream_rpc_method_handler(service.stream),
        "Answers": grpc.unary_stream_rpc_method_handler(service.answers),
        "Refused": refused,
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", handlers),))
    server.add_insecure_port(f"unix:{run_dir / 'observed.sock'}")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{run_dir / 'observed.sock'}") as opened:
        yield opened
    await server.stop(None)


async def _call(channel: grpc.aio.Channel, method: str, timeout: float = 30.0) -> tuple[int, str]:
    """Number of answers, and the code at the end."""
    # `Any`: grpcio's type stubs do not know calls without serialisers.
    kinds: dict[str, Any] = {STREAM: channel.stream_stream, ANSWERS: channel.unary_stream}
    unary: Any = channel.unary_unary(method)
    answers = 0
    try:
        if method in kinds:
            request = iter([b""]) if method == STREAM else b""
            async for _ in kinds[method](method)(request, timeout=timeout):
                answers += 1
        else:
            await unary(b"", timeout=timeout)
            answers = 1
    except grpc.aio.AioRpcError as error:
        return answers, error.code().name
    return answers, "OK"


async def _told(observers: list[Recorder], method: str, code: str, reason: str) -> None:
    await until(lambda: all(observer.ended for observer in observers))
    await asyncio.sleep(0.05)  # a second time would come soon
    for observer in observers:
        assert (observer.begun, observer.ended) == ([method], [(method, code, reason)])


KINDS = pytest.mark.parametrize("method", [UNARY, STREAM, ANSWERS])


@KINDS
async def test_a_call_that_succeeds_is_told_once(
    channel: grpc.aio.Channel, observers: list[Recorder], method: str
) -> None:
    assert await _call(channel, method) == (1, "OK")
    await _told(observers, method, "OK", "")


@KINDS
@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (TrustError(Reason.USER_NOT_FOUND, "no such user"), "NOT_FOUND", "USER_NOT_FOUND"),
        (RuntimeError("boom"), "INTERNAL", "INTERNAL"),
    ],
)
async def test_an_error_is_told_as_the_caller_sees_it(
    channel: grpc.aio.Channel,
    service: Service,
    observers: list[Recorder],
    method: str,
    error: Exception,
    code: str,
    reason: str,
) -> None:
    service.fails = error
    assert (await _call(channel, method))[1] == code
    await _told(observers, method, code, reason)


@KINDS
async def test_a_status_that_a_handler_ends_a_call_with_is_told_without_a_reason(
    channel: grpc.aio.Channel, service: Service, observers: list[Recorder], method: str
) -> None:
    service.aborts = True
    assert (await _call(channel, method))[1] == "DATA_LOSS"
    await _told(observers, method, "DATA_LOSS", "")


async def test_bytes_that_are_no_message_are_told_as_an_error(run_dir: Path, service: Service) -> None:
    observer = Recorder()

    def reject(_: bytes) -> bytes:
        raise ValueError("no message")

    server = grpc.aio.server(interceptors=[ErrorBoundary(program="observed", observers=[observer])])
    handlers: dict[str, Any] = {"Unary": grpc.unary_unary_rpc_method_handler(service.unary, reject)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", handlers),))
    server.add_insecure_port(f"unix:{run_dir / 'malformed.sock'}")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{run_dir / 'malformed.sock'}") as channel:
        assert await _call(channel, UNARY) == (0, "INVALID_ARGUMENT")
    await server.stop(None)
    await _told([observer], UNARY, "INVALID_ARGUMENT", "MALFORMED_MESSAGE")


@KINDS
async def test_a_caller_that_hangs_up_is_told_once_as_cancelled(
    channel: grpc.aio.Channel, service: Service, observers: list[Recorder], method: str
) -> None:
    service.hangs = True
    calling = asyncio.create_task(_call(channel, method))
    await until(lambda: bool(observers[0].begun))
    calling.cancel()
    await _told(observers, method, "CANCELLED", "")


@KINDS
async def test_a_deadline_that_passes_is_told_once_as_such(
    channel: grpc.aio.Channel, service: Service, observers: list[Recorder], method: str
) -> None:
    service.hangs = True
    began = time.monotonic()
    assert (await _call(channel, method, timeout=0.5))[1] == "DEADLINE_EXCEEDED"
    assert time.monotonic() - began >= 0.4
    await _told(observers, method, "DEADLINE_EXCEEDED", "")


async def test_a_stream_that_its_caller_leaves_while_answers_flow_is_told_once(
    run_dir: Path,
) -> None:
    """The generator then stands at its `yield`, and is closed rather than cancelled."""
    observer = Recorder()

    async def endless(_: bytes, context: Context) -> AsyncIterator[bytes]:
        while True:
            yield bytes(60_000)

    server = grpc.aio.server(interceptors=[ErrorBoundary(program="observed", observers=[observer])])
    handlers: dict[str, Any] = {"Answers": grpc.unary_stream_rpc_method_handler(endless)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", handlers),))
    server.add_insecure_port(f"unix:{run_dir / 'endless.sock'}")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{run_dir / 'endless.sock'}") as channel:
        calls: Any = channel.unary_stream(ANSWERS)
        call = calls(b"")
        await call.read()
        await asyncio.sleep(0.1)  # until the window is full
        call.cancel()
        await _told([observer], ANSWERS, "CANCELLED", "")
    await server.stop(None)


async def test_a_call_that_is_refused_before_it_is_read_is_told(
    channel: grpc.aio.Channel, observers: list[Recorder]
) -> None:
    assert (await _call(channel, REFUSED))[1] == "PERMISSION_DENIED"
    await _told(observers, REFUSED, "PERMISSION_DENIED", "SCOPE_MISSING")
