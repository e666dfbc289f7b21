"""The two cookies: who is logged in, and which browser this is.

Both are `__Host-` cookies: a browser takes them only with `Secure`, for this host alone and for all of its paths, so
that neither another host of the domain nor anybody on the way can plant one. No script sees them (`HttpOnly`). They
are `SameSite=Lax` and not `Strict`: who follows a link from a mail should not look logged out, or get a second device
id. What `Lax` lets through changes nothing, and everything that changes something is checked: see `csrf`.
"""

import re
import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

SESSION: Final = "__Host-session_id"
"""Ends with the browser, and where the session ends: that is for Flowless to say."""
DEVICE: Final = "__Host-device_id"
"""A random name of this browser, which ADVANCED and STRICT compare. It stays when people log out."""

_DEVICE_SECONDS: Final = 400 * 86_400
_DEVICE_BYTES: Final = 32
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


def device_id(request: Request) -> str:
    """As it was given out, or empty."""
    sent = request.cookies.get(DEVICE, "")
    return sent if _DEVICE_ID.fullmatch(sent) else ""


def new_device_id() -> str:
    """Make one: 256 random bits, so that who did not see it cannot guess it."""
    return secrets.token_urlsafe(_DEVICE_BYTES)


def set_session(response: Response, value: str) -> None:
    """Give the browser its session id."""
    response.set_cookie(SESSION, value, secure=True, httponly=True, samesite="lax", path="/")


def set_device(response: Response, value: str) -> None:
    """Give the browser its device id, for as long as browsers keep a cookie."""
    response.set_cookie(DEVICE, value, max_age=_DEVICE_SECONDS, secure=True, httponly=True, samesite="lax", path="/")


def drop_session(response: Response) -> None:
    """Take the session id away."""
    response.delete_cookie(SESSION, secure=True, httponly=True, samesite="lax", path="/")
