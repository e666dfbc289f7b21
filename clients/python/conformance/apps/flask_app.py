"""The app of the middleware cases in Flask, with what the Python client's own tests ask for beyond them."""

import os
from typing import Any

from flask import Flask, g, request

from trustlayer import Client, Mode
from trustlayer.v1.types_pb2 import Session
from trustlayer.wsgi import PUBLIC, Need, TrustLayerMiddleware, requires

app = Flask(__name__)
app.url_map.strict_slashes = False
app.wsgi_app = TrustLayerMiddleware(  # type: ignore[method-assign]
    app.wsgi_app,
    client=Client(os.environ["APP_SIDECAR_SOCKET"], timeout=10.0),
    routes={
        "/public": PUBLIC,
        "/open/*": PUBLIC,
        "/maybe": Need(optional=True),
        "/listed": Need(roles_any=["admin"]),
    },
    trusted_proxies=["127.0.0.9"],
)


def _shown(session: Session | None) -> dict[str, Any]:
    return {"email": session.user.email if session else None}


@app.get("/whoami")
@app.get("/public")
@app.get("/maybe")
@app.get("/listed")
def show() -> dict[str, Any]:
    return _shown(request.environ["trustlayer.session"])


@app.get("/open/<path:rest>")
def open_to_all(rest: str) -> dict[str, Any]:
    return _shown(request.environ["trustlayer.session"])


@app.get("/admin")
@requires(mode=Mode.STRICT, roles_any=["admin"])
def admin() -> dict[str, Any]:
    return _shown(g.session)


def _guarded(path: str, **need: Any) -> None:
    @app.get(path, endpoint=path)
    @requires(**need)
    def show_session() -> dict[str, Any]:
        return _shown(g.session)


_guarded("/both", roles_all=["reader", "admin"])
_guarded("/either", roles_any=["reader", "admin"])
_guarded("/fresh", route="payments")
_guarded("/named", route="no-such-rule")
_guarded("/wrong", route="x" * 129)
