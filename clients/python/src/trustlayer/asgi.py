"""Middleware of ASGI apps, and what routes of Starlette and FastAPI depend on. Imports no framework.

    app.add_middleware(TrustLayerMiddleware, client=aio.Client(SOCKET), routes={"/login": PUBLIC})

Requests and websockets pass with a session, or not at all: a websocket is refused before it is accepted. What is
validated is how they begin: who keeps a websocket or a long answer open asks again with `requires`. The session is
`request.state.session` in Starlette and FastAPI, and `scope["trustlayer.session"]`; `None` where a route needs none.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any, Final

from trustlayer.aio import Client
from trustlayer.errors import CallFailed, SessionDenied, ValidatorUnavailable
from trustlayer.guard import PUBLIC, Need, Outcome, Refused, Routes
from trustlayer.http_requests import Carried, RequestReader
from trustlayer.v1 import types_pb2
from trustlayer.validation import Mode

__all__ = ["PUBLIC", "Need", "Refused", "TrustLayerMiddleware", "requires"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SESSION_KEY: Final = "trustlayer.session"
_GUARD_KEY: Final = "trustlayer.guard"
_REFUSED_WEBSOCKET: Final = 1008
"""Policy violation (RFC 6455), for servers that cannot answer a websocket's request with a status."""


class TrustLayerMiddleware:
    """See the module."""

    def __init__(
        self,
        app: App,
        *,
        client: Client,
        need: Need | None = None,
        routes: Mapping[str, Need] | None = None,
        session_id_from: Sequence[str] = ("cookie:session_id", "bearer"),
        trusted_proxies: Sequence[str] = (),
        device_fingerprint_header: str = "x-device-fingerprint",
    ) -> None:
        """`need` is what every path needs (a session) but those that `routes` names, `/path` or `/prefix/*`.

        Where the rest is read from: see `RequestReader`. Raises `ValueError` for what cannot be used.
        """
        self._app = app
        self._client = client
        self._routes = Routes(need or Need(), routes or {})
        self._reader = RequestReader(
            session_id_from=session_id_from,
            trusted_proxies=trusted_proxies,
            device_fingerprint_header=device_fingerprint_header,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)  # lifespan: nobody's request
            return
        guarded = _Guarded(self._client, self._carried(scope))
        answer = _Answer(scope, receive, send)
        try:
            session = None
            for need in self._routes.needs_of(_path(scope)):
                session = await guarded.session_for(need)
            state = {**scope.get("state", {}), "session": session}
            passed = {**scope, "state": state, SESSION_KEY: session, _GUARD_KEY: guarded}
            await self._app(passed, answer.receive, answer.send)
        except Refused as refused:
            await answer.refuse(refused)

    def _carried(self, scope: Scope) -> Carried:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        client = scope.get("client")
        return self._reader.read(headers, peer=client[0] if client else "")


class _Guarded:
    """One request, about which more can be asked than its path needs."""

    def __init__(self, client: Client, carried: Carried) -> None:
        self._client = client
        self._carried = carried

    async def session_for(self, need: Need) -> types_pb2.Session | None:
        """Validate for this need. Asks each time: a yes from before a long wait is none now. Raises `Refused`."""
        asked = need.arguments(self._carried)
        if asked is None:
            return None
        answer: Outcome
        try:
            answer = await self._client.validate(**asked)
        except (SessionDenied, ValidatorUnavailable, CallFailed) as error:
            answer = error
        return need.settle(answer)


class _Answer:
    """Passes messages, and refuses as long as nothing was answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began = False
        self._connected = False

    async def receive(self) -> MutableMapping[str, Any]:
        """Pass on, and note that the websocket's first message was taken."""
        message = await self._receive()
        self._connected = self._connected or message["type"] == "websocket.connect"
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Pass on, and note that the answer began."""
        self._began = True
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer with the refusal; raises it where an answer has begun."""
        if self._began:
            raise refused
        if self._scope["type"] == "http":
            await self._respond("http.response", refused)
            return
        if not self._connected:
            await self._receive()  # `websocket.connect`, which comes first
        if "websocket.http.response" in self._scope.get("extensions", {}):
            await self._respond("websocket.http.response", refused)
        else:
            await self._send({"type": "websocket.close", "code": _REFUSED_WEBSOCKET, "reason": refused.reason})

    async def _respond(self, kind: str, refused: Refused) -> None:
        body = refused.body
        headers = [(name.encode(), value.encode()) for name, value in refused.headers]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({"type": f"{kind}.start", "status": int(refused.status), "headers": headers})
        await self._send({"type": f"{kind}.body", "body": body})


def _path(scope: Scope) -> str:
    """Give the path as the app's routing sees it: below where it is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def requires(
    *,
    mode: Mode = Mode.DEFAULT,
    route: str = "",
    roles_any: Collection[str] | None = None,
    roles_all: Collection[str] | None = None,
) -> Callable[..., Awaitable[types_pb2.Session]]:
    """Make what a route of FastAPI depends on; it gives the session. Needs the middleware around the app.

        @app.get("/admin")
        async def admin(session: Annotated[Session, Depends(requires(mode=Mode.STRICT, roles_any=["admin"]))]): ...

    In Starlette: `session = await requires(mode=Mode.STRICT)(request)`. Comes on top of what the path needs. Each
    await asks the sidecar anew, so that it can stand before each message of a websocket. Raises `ValueError` as
    `Need` does.
    """
    from starlette.requests import HTTPConnection  # noqa: PLC0415 - who uses ASGI alone need not have it

    need = Need(mode=mode, route=route, roles_any=roles_any, roles_all=roles_all)

    async def session_of(connection: HTTPConnection) -> types_pb2.Session:
        guarded: _Guarded | None = connection.scope.get(_GUARD_KEY)
        if guarded is None:
            raise RuntimeError("TrustLayerMiddleware is not around this app")
        session = await guarded.session_for(need)
        if session is None:
            raise RuntimeError("a session is needed, and there is none")
        connection.state.session = session
        return session

    return session_of
