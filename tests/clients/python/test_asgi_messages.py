"""Messages of ASGI that the servers of `test_middleware.py` do not show; a real sidecar is behind the middleware."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from tests.clients.python.conftest import LoggedIn, log_in
from tests.support.system import BROWSER, System
from trustlayer import aio
from trustlayer.asgi import PUBLIC, Refused, TrustLayerMiddleware, requires
from trustlayer.v1 import session_pb2

Message = MutableMapping[str, Any]


async def _exchange(app: Any, scope: Message, *received: Message) -> list[Message]:
    waiting, sent = list(received), []

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def _scope(kind: str, **more: Any) -> Message:
    return {"type": kind, "path": "/", "headers": [], "client": ("203.0.113.7", 1), **more}


async def test_a_websocket_is_answered_with_the_status_where_the_server_can(socket: str) -> None:
    app = TrustLayerMiddleware(_never, client=aio.Client(socket))
    scope = _scope("websocket", extensions={"websocket.http.response": {}})
    start, body = await _exchange(app, scope, {"type": "websocket.connect"})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert (body["type"], b"SESSION_MISSING" in body["body"]) == ("websocket.http.response.body", True)
    closed = await _exchange(app, _scope("websocket"), {"type": "websocket.connect"})
    assert closed == [{"type": "websocket.close", "code": 1008, "reason": "SESSION_MISSING"}]


async def test_what_is_nobodys_request_passes(socket: str) -> None:
    async def started(_scope: Message, _receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})

    app = TrustLayerMiddleware(started, client=aio.Client(socket))
    assert await _exchange(app, {"type": "lifespan"}) == [{"type": "lifespan.startup.complete"}]


async def test_a_path_is_looked_up_below_where_the_app_is_mounted(socket: str) -> None:
    reached: list[Any] = []

    async def app(scope: Message, _receive: Any, _send: Any) -> None:
        reached.append(scope["trustlayer.session"])

    guarded = TrustLayerMiddleware(app, client=aio.Client(socket), routes={"/health": PUBLIC})
    await _exchange(guarded, _scope("http", path="/shop/health", root_path="/shop"))
    assert reached == [None]
    start, _ = await _exchange(guarded, _scope("http", path="/shopping/health", root_path="/shop"))
    assert start["status"] == 401
    assert reached == [None]


async def test_a_refusal_after_an_answer_began_is_not_swallowed(socket: str, ada: LoggedIn, client_ip: str) -> None:
    async def late(scope: Message, _receive: Any, send: Any) -> None:
        from starlette.requests import Request

        await send({"type": "http.response.start", "status": 200, "headers": []})
        await requires(roles_any=["nobody-has-this"])(Request(scope))

    app = TrustLayerMiddleware(late, client=aio.Client(socket))
    scope = _scope("http", headers=[(b"cookie", f"session_id={ada.session_id}".encode())], client=(client_ip, 1))
    with pytest.raises(Refused, match="ROLE_MISSING"):
        await _exchange(app, scope)


async def test_a_dependency_without_the_middleware_lets_nobody_in() -> None:
    from starlette.requests import Request

    with pytest.raises(RuntimeError, match="TrustLayerMiddleware"):
        await requires()(Request({"type": "http"}))


async def test_a_dependency_on_a_route_that_needs_no_session_still_needs_one(socket: str) -> None:
    async def app(scope: Message, _receive: Any, _send: Any) -> None:
        from starlette.requests import Request

        await requires()(Request(scope))

    guarded = TrustLayerMiddleware(app, client=aio.Client(socket), routes={"/": PUBLIC})
    start, _ = await _exchange(guarded, _scope("http"))
    assert start["status"] == 401


@pytest.mark.parametrize(
    "settings",
    [
        {"session_id_from": "bearer"},
        {"session_id_from": []},
        {"session_id_from": ["header:x"]},
        {"trusted_proxies": "127.0.0.1"},
        {"trusted_proxies": ["0.0.0.0/0"]},
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"trusted_proxies": ["proxy.example"]},
        {"routes": {"health": PUBLIC}},
        {"routes": {"/a*": PUBLIC}},
        {"routes": {"/*/health": PUBLIC}},
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        TrustLayerMiddleware(_never, client=aio.Client("/nowhere.sock"), **settings)


async def test_a_yes_is_not_remembered_for_the_next_message_of_a_websocket(system: System, socket: str) -> None:
    from starlette.websockets import WebSocket

    said: list[str] = []
    session_id = log_in(system, "leaver@example.org").session_id

    async def app(scope: Message, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        said.append((await requires()(websocket)).user.email)
        system.app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id), timeout=10)
        await requires()(websocket)
        said.append("and still here")

    guarded = TrustLayerMiddleware(app, client=aio.Client(socket, timeout=10.0))
    headers = [(b"cookie", f"session_id={session_id}".encode())]
    scope = _scope("websocket", headers=headers, client=(BROWSER.client_ip, 1))
    with pytest.raises(Refused, match="REVOKED"):
        await _exchange(guarded, scope, {"type": "websocket.connect"})
    assert said == ["leaver@example.org"]


async def _never(_scope: Message, _receive: Any, _send: Any) -> None:
    raise AssertionError("the app was reached")
