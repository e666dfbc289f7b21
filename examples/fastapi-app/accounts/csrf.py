"""No other site's page can make a browser change something here. Every POST passes `protect`, whatever handles it.

Two locks, and both have to open (OWASP's cheat sheet on CSRF calls them Fetch Metadata, with a check of the origin,
and a token bound to the session):

1. **Where from.** Browsers say in `Sec-Fetch-Site` and `Origin` whose page sends a form, and pages cannot forge
   either. Only this very origin may. A browser that says neither is refused.
2. **A token** in each form, which no other page can read. It is an HMAC of the session id under the device id: both
   are cookies of this browser that no script reads. So the app keeps no secret and no table, all of its processes
   agree, a token of one session is worth nothing in another, and a form from before a login is refused after it.
   Before a login there is a device id already, so nobody can log a browser in as somebody else either.
"""

import asyncio
import hashlib
import hmac
from typing import Final
from urllib.parse import parse_qsl

from fastapi import Request

from accounts import cookies, requests
from accounts.settings import Settings

FIELD: Final = "csrf_token"
_SAFE: Final = frozenset({"GET", "HEAD"})
_FORM: Final = "application/x-www-form-urlencoded"
_MAX_BYTES: Final = 16_384
_MAX_FIELDS: Final = 20
_READ_SECONDS: Final = 10.0


class RefusedError(Exception):
    """A request that may not have any effect. `status` is the answer's; the text is for people."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def token(*, device_id: str, session_id: str) -> str:
    """Make the token of a browser (and, once somebody is logged in, of the session); says nothing of either."""
    return hmac.new(device_id.encode(), b"csrf-token\0" + session_id.encode(), hashlib.sha256).hexdigest()


async def protect(request: Request) -> None:
    """Let a request through that changes nothing, or whose form is one of ours. Leaves the form in `request.state`.

    Raises `RefusedError`.
    """
    if request.method in _SAFE:
        return
    settings: Settings = request.app.state.settings
    _check_where_from(request, settings.origin)
    device_id = cookies.device_id(request)
    if not device_id:
        raise RefusedError(403, "Your browser did not send our cookies. Allow cookies for this site and try again.")
    form = await _read_form(request)
    ours = token(device_id=device_id, session_id=requests.read(request).session_id or "")
    if not hmac.compare_digest(form.get(FIELD, "").encode(), ours.encode()):
        raise RefusedError(
            403, "This page was out of date. Nothing was changed. Open it again and repeat what you did."
        )
    request.state.form = form


def _check_where_from(request: Request, origin: str) -> None:
    site, sender = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if (site is None and sender is None) or site not in (None, "same-origin") or sender not in (None, origin):
        raise RefusedError(403, "This request came from another site. Nothing was changed.")


async def _read_form(request: Request) -> dict[str, str]:
    """Read a small form; of a field that is there twice, nobody could say which is meant."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise RefusedError(415, "This is no form of ours.")
    body = bytearray()
    try:
        async with asyncio.timeout(_READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise RefusedError(413, "That was too much text.")
    except TimeoutError:
        raise RefusedError(408, "Your browser took too long to send the form.") from None
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise RefusedError(400, "This is no form of ours.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise RefusedError(400, "This is no form of ours.")
    return form
