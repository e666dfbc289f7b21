"""What an HTTP request carries for a validation: session id, device fingerprint, user agent. Pure.

Headers are pairs of a name in lower case and a value, in the order in which they came. Values are text as servers
give it to apps, one character per byte.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from trust_core.modes import RequestContext

Headers = Sequence[tuple[str, str]]

MAX_DEVICE_CHARS: Final = 512
MAX_USER_AGENT_CHARS: Final = 1_024
_MAX_SESSION_ID_CHARS: Final = 128
_BEARER = re.compile(r"bearer[ ]+([!-~]+)", re.ASCII | re.IGNORECASE)
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SOURCE = re.compile(rf"bearer|cookie:({_TOKEN})|header:({_TOKEN})", re.ASCII)
_HEADER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_NOT_A_SESSION_ID: Final = ""
"""Stands for what was sent in the place of a session id and is none."""


class SourceError(ValueError):
    """A place of session ids that cannot be used; the text says what one looks like."""


def is_header_name(text: str) -> bool:
    """Whether the text may name a header in a setting: lower case, letters, digits and hyphens."""
    return _HEADER_NAME.fullmatch(text) is not None


def lines_of(headers: Headers, name: str) -> list[str]:
    """Take the lines of one header."""
    return [value for found, value in headers if found == name]


def cookies_named(lines: Iterable[str], name: str) -> list[str]:
    """Take the values of the cookies of one name, as RFC 6265 has a server read them; names differ by case."""
    found = []
    for line in lines:
        for pair in line.split(";"):
            key, equals, value = pair.strip(" \t").partition("=")
            if equals and key.strip(" \t") == name:
                found.append(value.strip(" \t").strip('"'))
    return found


class SessionSource:
    """One place where a session id may stand: `cookie:NAME`, `bearer`, or `header:NAME`."""

    def __init__(self, text: str) -> None:
        """Read the setting. Raises `SourceError`."""
        found = _SOURCE.fullmatch(text)
        if found is None or (found[2] and (not is_header_name(found[2]) or found[2] in ("authorization", "cookie"))):
            raise SourceError("must be bearer, cookie:NAME or header:name, the header's in lower case")
        self._cookie, self._header = found[1], found[2] or ("cookie" if found[1] else "authorization")

    def values(self, headers: Headers) -> list[str]:
        """Return everything that was sent in this place."""
        lines = lines_of(headers, self._header)
        if self._cookie:
            return cookies_named(lines, self._cookie)
        if self._header != "authorization":
            return [line.strip(" \t") for line in lines]
        matches = [_BEARER.fullmatch(line.strip(" \t")) for line in lines]
        return [match[1] for match in matches if match is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReader:
    """Reads requests as the operator says. `device_header` is in lower case."""

    sources: tuple[SessionSource, ...]
    device_header: str

    def session_id(self, headers: Headers) -> str | None:
        """Take the session id from the first place where anything was sent; `None` when nowhere.

        The places that follow are not looked at, whatever stands in the first. Two values in one place (a site beside
        this one can set a cookie of the same name) are no session id: the app behind might take the other one.
        """
        for source in self.sources:
            values = source.values(headers)
            if values:
                value = values[0]
                is_one = len(values) == 1 and len(value) <= _MAX_SESSION_ID_CHARS
                return value if is_one else _NOT_A_SESSION_ID
        return None

    def context(self, headers: Headers, *, client_ip: str) -> RequestContext:
        """Collect the request context. What was sent twice, or too long to be compared, counts as not sent."""
        return RequestContext(
            client_ip,
            _only(lines_of(headers, self.device_header), MAX_DEVICE_CHARS),
            _only(lines_of(headers, "user-agent"), MAX_USER_AGENT_CHARS),
        )


def _only(lines: list[str], most: int) -> str:
    return lines[0] if len(lines) == 1 and len(lines[0]) <= most else ""
