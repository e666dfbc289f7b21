"""Middleware of WSGI apps, and a decorator of Flask's views. Imports no framework.

    app.wsgi_app = TrustLayerMiddleware(app.wsgi_app, client=Client(SOCKET), routes={"/login": PUBLIC})

Requests pass with a session, or not at all. It is `environ["trustlayer.session"]`, and in a decorated view of Flask
`g.session`; `None` where a route needs none.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, ParamSpec

from trustlayer.client import Client
from trustlayer.errors import CallFailed, SessionDenied, ValidatorUnavailable
from trustlayer.guard import PUBLIC, Need, Outcome, Refused, Routes
from trustlayer.http_requests import Carried, RequestReader
from trustlayer.v1 import types_pb2
from trustlayer.validation import Mode

__all__ = ["PUBLIC", "Need", "Refused", "TrustLayerMiddleware", "requires"]

P = ParamSpec("P")
Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

SESSION_KEY: Final = "trustlayer.session"
_GUARD_KEY: Final = "trustlayer.guard"


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

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Let a request pass, or answer it."""
        guarded = Guarded(self._client, carried(self._reader, environ))
        try:
            session = None
            for need in self._routes.needs_of(_path(environ)):
                session = guarded.session_for(need)
        except Refused as refused:
            start_response(f"{refused.status:d} {refused.status.phrase}", refused.headers)
            return [refused.body]
        environ[SESSION_KEY] = session
        environ[_GUARD_KEY] = guarded
        return self._app(environ, start_response)


def carried(reader: RequestReader, environ: Mapping[str, Any]) -> Carried:
    """Read a request as WSGI has it; servers join what was sent twice with commas."""
    headers = {
        name: [environ[key]]
        for name in reader.header_names
        if (key := f"HTTP_{name.upper().replace('-', '_')}") in environ
    }
    return reader.read(headers, peer=environ.get("REMOTE_ADDR") or "")


class Guarded:
    """One request, about which more can be asked than its path needs."""

    def __init__(self, client: Client, carried: Carried) -> None:
        """`carried` is what was read of the request."""
        self._client = client
        self._carried = carried

    def session_for(self, need: Need) -> types_pb2.Session | None:
        """Validate for this need. Asks each time: a yes from before a long wait is none now. Raises `Refused`."""
        asked = need.arguments(self._carried)
        if asked is None:
            return None
        answer: Outcome
        try:
            answer = self._client.validate(**asked)
        except (SessionDenied, ValidatorUnavailable, CallFailed) as error:
            answer = error
        return need.settle(answer)


def _path(environ: Environ) -> str:
    """Give the path as the app's routing sees it: as text, and below where it is mounted."""
    path: str = environ.get("PATH_INFO") or "/"
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def requires(
    *,
    mode: Mode = Mode.DEFAULT,
    route: str = "",
    roles_any: Collection[str] | None = None,
    roles_all: Collection[str] | None = None,
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Decorate a view of Flask; `g.session` is the session in it. Needs the middleware around the app.

        @app.get("/admin")
        @requires(mode=Mode.STRICT, roles_any=["admin"])
        def admin(): ...

    Comes on top of what the path needs, and stands below the decorator that makes the view a route. Raises
    `ValueError` as `Need` does.
    """
    from flask import g, request  # noqa: PLC0415 - who uses WSGI alone need not have it

    need = Need(mode=mode, route=route, roles_any=roles_any, roles_all=roles_all)

    def decorate(view: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(view)
        def guarded_view(*args: P.args, **kwargs: P.kwargs) -> Any:
            guarded: Guarded | None = request.environ.get(_GUARD_KEY)
            if guarded is None:
                raise RuntimeError("TrustLayerMiddleware is not around this app")
            try:
                g.session = guarded.session_for(need)
            except Refused as refused:
                return refused.body, int(refused.status), refused.headers
            return view(*args, **kwargs)

        return guarded_view

    return decorate
