"""The routes that `test_middleware.py` asks for, in Flask."""

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


@app.get("/wrong")
@requires(route="x" * 129)
def wrong() -> dict[str, Any]:
    return _shown(g.session)


@app.get("/named")
@requires(route="no-such-rule")
def named() -> dict[str, Any]:
    return _shown(g.session)
