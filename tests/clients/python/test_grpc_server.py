"""Interceptors of real gRPC servers, with and without asyncio, beside a real pair."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.clients.python.conftest import LoggedIn
from tests.support.system import PASSWORD, System
from trustlayer import Client, Mode, aio
from trustlayer.grpc_server import PUBLIC, AioSessionInterceptor, Need, SessionInterceptor, current_session
from trustlayer.v1 import session_pb2, types_pb2

SERVICE = "shop.v1.Shop"
LOCAL = "127.0.0.1"
METHODS = {
    f"/{SERVICE}/Admin": Need(mode=Mode.ADVANCED, roles_any=("admin",)),
    f"/{SERVICE}/Maybe": Need(optional=True),
    f"/{SERVICE}/Wrong": Need(route="x" * 129),
    "/shop.v1.Health/*": PUBLIC,
}
DEVICE = ("x-device-fingerprint", "device")


def _who() -> bytes:
    session = current_session()
    return session.user.email.encode() if session is not None else b"nobody"


class Shop(grpc.GenericRpcHandler):
    """Answers every method with the user's address; streams give it three times, and what they were sent."""

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        if call.method.endswith("Nothing"):
            return None
        if call.method.endswith("Many"):
            return grpc.unary_stream_rpc_method_handler(self.many)
        if call.method.endswith("Chat"):
            return grpc.stream_stream_rpc_method_handler(self.chat)
        if call.method.endswith("Upload"):
            return grpc.stream_unary_rpc_method_handler(lambda parts, _: _who() + b"".join(parts))
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: _who())

    def many(self, _request: bytes, _context: Any) -> Iterator[bytes]:
        for _ in range(3):
            yield _who()

    def chat(self, parts: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        for part in parts:
            yield _who() + part


class AioShop(grpc.GenericRpcHandler):
    """As `Shop`."""

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        if call.method.endswith("Nothing"):
            return None
        if call.method.endswith("Many"):
            return grpc.unary_stream_rpc_method_handler(self.many)
        if call.method.endswith("Written"):
            return grpc.unary_stream_rpc_method_handler(self.written)
        if call.method.endswith("Chat"):
            return grpc.stream_stream_rpc_method_handler(self.chat)
        if call.method.endswith("Upload"):
            return grpc.stream_unary_rpc_method_handler(self.upload)
        return grpc.unary_unary_rpc_method_handler(self.one)

    async def one(self, _request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(0)
        return _who()

    async def many(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for _ in range(3):
            await asyncio.sleep(0)
            yield _who()

    async def written(self, _request: bytes, context: Any) -> None:
        for _ in range(3):
            await context.write(_who())

    async def chat(self, parts: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for part in parts:
            yield _who() + part

    async def upload(self, parts: AsyncIterator[bytes], _context: Any) -> bytes:
        return _who() + b"".join([part async for part in parts])


@contextmanager
def _sync_server(socket: str) -> Iterator[int]:
    with Client(socket) as client:
        interceptor = SessionInterceptor(client, methods=METHODS)
        server = grpc.server(ThreadPoolExecutor(8), interceptors=[interceptor])
        server.add_generic_rpc_handlers((Shop(),))
        port = server.add_insecure_port(f"{LOCAL}:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(grace=None).wait()


@contextmanager
def _aio_server(socket: str) -> Iterator[int]:
    ports: list[int] = []
    ready = threading.Event()

    async def serve(until: asyncio.Event) -> None:
        async with aio.Client(socket) as client:
            interceptor = AioSessionInterceptor(client, methods=METHODS)
            server = grpc.aio.server(interceptors=[interceptor])
            server.add_generic_rpc_handlers((AioShop(),))
            ports.append(server.add_insecure_port(f"{LOCAL}:0"))
            await server.start()
            ready.set()
            await until.wait()
            await server.stop(grace=None)

    with asyncio.Runner() as runner:
        until = asyncio.Event()
        thread = threading.Thread(target=runner.run, args=(serve(until),))
        thread.start()
        assert ready.wait(10)
        try:
            yield ports[0]
        finally:
            runner.get_loop().call_soon_threadsafe(until.set)
            thread.join()


@pytest.fixture(scope="module", params=["sync", "asyncio"])
def channel(request: pytest.FixtureRequest, socket: str) -> Iterator[grpc.Channel]:
    server = _sync_server if request.param == "sync" else _aio_server
    with server(socket) as port, grpc.insecure_channel(f"{LOCAL}:{port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def grace(system: System) -> str:
    return _log_in(system, "grace@example.org", LOCAL, "admin")


def _log_in(system: System, email: str, client_ip: str, *roles: str) -> str:
    system.app.register(email, roles=roles)
    context = types_pb2.RequestContext(client_ip=client_ip, device_fingerprint="device", user_agent="agent")
    request = session_pb2.LoginRequest(login=email, password=PASSWORD, context=context)
    return system.app.sessions.Login(request, timeout=10).session_id


def _call(channel: grpc.Channel, method: str, *metadata: tuple[str, str]) -> bytes:
    call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    answer: bytes = call(b"", metadata=metadata, timeout=10)
    return answer


def _refused(channel: grpc.Channel, method: str, *metadata: tuple[str, str]) -> tuple[str, str]:
    """Call for what is refused: the code, and the reason for programs."""
    with pytest.raises(grpc.RpcError) as error:
        _call(channel, method, *metadata)
    said: Any = error.value
    assert said.details()
    reasons = [value for key, value in said.trailing_metadata() if key == "trustlayer-reason"]
    return said.code().name, "".join(reasons)


def _bearer(session_id: str) -> tuple[str, str]:
    return "authorization", f"Bearer {session_id}"


def test_a_call_with_a_session_reaches_its_handler(channel: grpc.Channel, grace: str) -> None:
    assert _call(channel, "Whoami", _bearer(grace)) == b"grace@example.org"
    assert _call(channel, "Whoami", ("cookie", f"session_id={grace}")) == b"grace@example.org"


def test_one_without_does_not(channel: grpc.Channel, ada: LoggedIn, grace: str) -> None:
    assert _refused(channel, "Whoami") == ("UNAUTHENTICATED", "SESSION_MISSING")
    assert _refused(channel, "Whoami", _bearer("nonsense")) == ("UNAUTHENTICATED", "MALFORMED")
    assert _refused(channel, "Whoami", _bearer(ada.session_id)) == ("UNAUTHENTICATED", "IP_MISMATCH")
    assert _refused(channel, "Whoami", _bearer(grace), _bearer(ada.session_id)) == ("UNAUTHENTICATED", "MALFORMED")


@pytest.mark.parametrize("method", ["Many", "Chat", "Upload"])
def test_streams_are_guarded_as_well(channel: grpc.Channel, grace: str, method: str) -> None:
    path = f"/{SERVICE}/{method}"
    metadata = (_bearer(grace),)

    def ask(metadata: tuple[tuple[str, str], ...]) -> bytes:
        of: Any = channel
        if method == "Many":
            return b" ".join(of.unary_stream(path)(b"", metadata=metadata, timeout=10))
        if method == "Chat":
            return b" ".join(of.stream_stream(path)(iter([b"1", b"2"]), metadata=metadata, timeout=10))
        answer: bytes = of.stream_unary(path)(iter([b"1", b"2"]), metadata=metadata, timeout=10)
        return answer

    who = b"grace@example.org"
    assert (
        ask(metadata)
        == {"Many": b" ".join([who] * 3), "Chat": who + b"1 " + who + b"2", "Upload": who + b"12"}[method]
    )
    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        ask(())


def test_a_stream_that_a_handler_writes_itself_is_guarded_as_well(socket: str, grace: str) -> None:
    with _aio_server(socket) as port, grpc.insecure_channel(f"{LOCAL}:{port}") as channel:
        written: Any = channel.unary_stream(f"/{SERVICE}/Written")
        assert list(written(b"", metadata=(_bearer(grace),), timeout=10)) == [b"grace@example.org"] * 3
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            list(written(b"", timeout=10))


def test_a_method_may_ask_for_a_mode_and_roles(channel: grpc.Channel, system: System, grace: str) -> None:
    reader = _log_in(system, f"reader{id(channel)}@example.org", LOCAL, "reader")
    assert _refused(channel, "Admin", _bearer(grace)) == ("UNAUTHENTICATED", "CONTEXT_MISSING")
    assert _refused(channel, "Admin", _bearer(reader), DEVICE) == ("PERMISSION_DENIED", "ROLE_MISSING")
    assert _call(channel, "Admin", _bearer(grace), DEVICE) == b"grace@example.org"


def test_a_method_may_take_a_session_or_none(channel: grpc.Channel, grace: str) -> None:
    assert _call(channel, "Maybe") == b"nobody"
    assert _call(channel, "Maybe", _bearer("nonsense")) == b"nobody"
    assert _call(channel, "Maybe", _bearer(grace)) == b"grace@example.org"


def test_a_service_may_need_none(channel: grpc.Channel, grace: str) -> None:
    check: Any = channel.unary_unary("/shop.v1.Health/Check")
    assert check(b"", timeout=10) == check(b"", metadata=(_bearer(grace),), timeout=10) == b"nobody"


def test_a_question_that_is_wrong_is_the_servers_mistake(channel: grpc.Channel, grace: str) -> None:
    assert _refused(channel, "Wrong", _bearer(grace)) == ("INTERNAL", "INTERNAL")


def test_a_cookie_comes_before_a_bearer_as_in_http(channel: grpc.Channel, grace: str) -> None:
    assert _refused(channel, "Whoami", ("cookie", "session_id=nonsense"), _bearer(grace)) == (
        "UNAUTHENTICATED",
        "MALFORMED",
    )


def test_a_method_that_is_not_there_is_unimplemented(channel: grpc.Channel) -> None:
    assert _refused(channel, "Nothing") == ("UNIMPLEMENTED", "")


@pytest.mark.parametrize("server", [_sync_server, _aio_server], ids=["sync", "asyncio"])
def test_what_cannot_be_known_is_unavailable(server: Any, run_dir: Path, grace: str) -> None:
    nowhere = str(run_dir / "nobody.sock")
    with server(nowhere) as port, grpc.insecure_channel(f"{LOCAL}:{port}") as channel:
        assert _refused(channel, "Whoami", _bearer(grace)) == ("UNAVAILABLE", "UNAVAILABLE")
        assert _refused(channel, "Maybe", _bearer(grace)) == ("UNAVAILABLE", "UNAVAILABLE")
