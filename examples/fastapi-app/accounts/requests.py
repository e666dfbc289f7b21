"""What a request carries: session id, client address and user agent, read by the rules that every client keeps.

Nothing here guesses. Two different session cookies are no session id; an address that cannot be followed to the
client through the proxies that are trusted is none; and what is too long to be compared counts as not sent.
"""

from collections.abc import Sequence

from starlette.requests import Request

from accounts import cookies
from trustlayer.http_requests import Carried, RequestReader


def reader(trusted_proxies: Sequence[str]) -> RequestReader:
    """Say where the parts stand. Raises `ValueError` for what is no address and no network."""
    return RequestReader(session_id_from=[f"cookie:{cookies.SESSION}"], trusted_proxies=trusted_proxies)


def read(request: Request) -> Carried:
    """Read a request. Its device is a cookie here and no header: see `cookies.device_id`."""
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.raw:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    found: RequestReader = request.app.state.reader
    return found.read(headers, peer=request.client.host if request.client else "")
