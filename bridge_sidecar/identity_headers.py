"""What the app behind a proxy is told about whose request it is, and what nobody else may tell it. Pure.

An app believes these headers because nobody but the proxy can set them. Servers hand headers to apps under names in
which several spellings fall together: CGI, WSGI and PHP write `X-User-Id`, `x_user_id` and, some of them, `x.user.id`
as `HTTP_X_USER_ID`. So names are compared as such a server would fold them, and all names that could ever be sent are
guarded, not only those that are configured.
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from bridge_sidecar.http_requests import Headers

if TYPE_CHECKING:
    from trustlayer.v1 import types_pb2  # the settings know these names, and need no messages

MAX_BYTES: Final = 8 * 1024
"""Of all values together: servers take about this much for all headers of a request."""
_FOLDED = re.compile(r"[^a-z0-9]", re.ASCII)
_PLAIN: Final = "!#$&'()*+-./:;<=>?@[]^_`{|}~"
"""Signs that are sent as they are. Percent-encoded are all others: the percent sign, the comma, quotes, blanks."""

_VALUES: Final["dict[str, Callable[[types_pb2.Session], str]]"] = {
    "x-user-id": lambda session: encode(session.user.id),
    "x-session-handle": lambda session: encode(session.handle),
    "x-user-roles": lambda session: ",".join(map(encode, session.user.roles)),
    "x-user-email": lambda session: encode(session.user.email),
    "x-user-email-verified": lambda session: "true" if session.user.email_verified else "false",
    "x-user-name": lambda session: encode(session.user.user_name),
    "x-user-type": lambda session: encode(session.user.user_type),
    "x-user-locale": lambda session: encode(session.user.locale),
}
KNOWN: Final = tuple(_VALUES)
"""Every header that may be configured, and that no client may send."""
_KNOWN_SET: Final = frozenset(KNOWN)


class IdentityTooLargeError(Exception):
    """The values exceed `MAX_BYTES`. Cutting them short would tell the app something that is not so."""


def fold(name: str) -> str:
    """Bring a header's name into the form in which spellings fall together."""
    return _FOLDED.sub("-", name.lower())


def guarded(headers: Headers) -> list[str]:
    """List the names under which a client sent what only the proxy may say, as they were written."""
    return [name for name, _ in headers if fold(name) in _KNOWN_SET]


def encode(text: str) -> str:
    """Make a text safe in a header, and in a list with commas: percent-encoded UTF-8 where it is not plain ASCII."""
    return quote(text, safe=_PLAIN, errors="replace")


def identity_headers(session: "types_pb2.Session", names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Write the headers of these names. One that would be empty is left out. Raises `IdentityTooLargeError`."""
    written = [(name, _VALUES[name](session)) for name in names]
    if sum(len(value) for _, value in written) > MAX_BYTES:
        raise IdentityTooLargeError
    return tuple((name, value) for name, value in written if value)
