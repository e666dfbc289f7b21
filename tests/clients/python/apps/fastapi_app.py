"""The routes that `test_middleware.py` asks for, in FastAPI."""

import os
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, WebSocket

from trustlayer import Mode, aio
from trustlayer.asgi import PUBLIC, Need, TrustLayerMiddleware, requires
from trustlayer.v1.types_pb2 import Session

app = FastAPI()
app.add_middleware(
    TrustLayerMiddleware,
    client=aio.Client(os.environ["APP_SIDECAR_SOCKET"], timeout=10.0),
    routes={"/public": PUBLIC, "/open/*": PUBLIC, "/maybe": Need(optional=True)},
    trusted_proxies=["127.0.0.9"],
)


def _shown(session: Session | None) -> dict[str, Any]:
    return {"email": session.user.email if session else None}


@app.get("/whoami")
@app.get("/public")
@app.get("/open/{rest:path}")
@app.get("/maybe")
async def show(request: Request) -> dict[str, Any]:
    return _shown(request.state.session)


@app.get("/admin")
async def admin(
    session: Annotated[Session, Depends(requires(mode=Mode.STRICT, roles_any=["admin"]))],
) -> dict[str, Any]:
    return _shown(session)


@app.get("/wrong")
async def wrong(request: Request) -> dict[str, Any]:
    return _shown(await requires(route="x" * 129)(request))


@app.get("/named")
async def named(request: Request) -> dict[str, Any]:
    return _shown(await requires(route="no-such-rule")(request))


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(_shown(websocket.state.session))
    await websocket.close()


@app.websocket("/echo-admin")
async def echo_admin(
    websocket: WebSocket, session: Annotated[Session, Depends(requires(roles_any=["admin"]))]
) -> None:
    await websocket.accept()
    await websocket.send_json(_shown(session))
    await websocket.close()
