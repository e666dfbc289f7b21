"""The app of the middleware cases in FastAPI, with what the Python client's own tests ask for beyond them."""

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


def _guarded(path: str, **need: Any) -> None:
    async def show_session(session: Annotated[Session, Depends(requires(**need))]) -> dict[str, Any]:
        return _shown(session)

    app.get(path)(show_session)


_guarded("/both", roles_all=["reader", "admin"])
_guarded("/either", roles_any=["reader", "admin"])
_guarded("/fresh", route="payments")
_guarded("/named", route="no-such-rule")
_guarded("/wrong", route="x" * 129)


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
