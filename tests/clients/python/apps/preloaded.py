"""An app that asks before its server forks, and after: each answer says by which process, and as whom."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from trustlayer import Client, aio

_SESSION_ID = os.environ["APP_SESSION_ID"]
_CLIENT_IP = os.environ["APP_CLIENT_IP"]

client = Client(os.environ["APP_SIDECAR_SOCKET"], timeout=10.0)
aio_client = aio.Client(os.environ["APP_SIDECAR_SOCKET"], timeout=10.0)


def _ask() -> str:
    return client.validate(_SESSION_ID, client_ip=_CLIENT_IP).session.user.email


async def _ask_aio() -> str:
    found = await aio_client.validate(_SESSION_ID, client_ip=_CLIENT_IP)
    return found.session.user.email


# In the process that forks. uWSGI does not tell Python that it forks, so there asyncio begins after it.
loaded_by = os.getpid()
_ask()
if "uwsgi" not in sys.modules:
    asyncio.run(_ask_aio())


def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer as a WSGI app does."""
    answer = {"pid": os.getpid(), "sync": _ask(), "asyncio": asyncio.run(_ask_aio()), "loaded_by": loaded_by}
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps(answer).encode()]


async def asgi_app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Answer as an ASGI app does, from a loop that goes on."""
    assert scope["type"] == "http"
    answer = {"pid": os.getpid(), "asyncio": await _ask_aio(), "loaded_by": loaded_by}
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
