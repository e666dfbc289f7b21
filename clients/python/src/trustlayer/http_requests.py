"""What an HTTP request carries for a validation: session id, client IP, device fingerprint, user agent. Pure.

Header names are in lower case, and values text with one character per byte, as servers give them to apps.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

UNIX: Final = "unix"
"""Among trusted proxies: whoever connects without an address, over a Unix socket."""
NOT_A_SESSION_ID: Final = ""
"""Stands for what was sent in the place of a session id and cannot be one: MALFORMED, without asking."""
_MAX_ADDRESSES: Final = 32
_MAX_DEVICE_BYTES: Final = 512
_MAX_USER_AGENT_BYTES: Final = 1_024
_MAX_SESSION_ID_CHARS: Final = 128
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PLACE: Final = re.compile(rf"bearer|cookie:({_TOKEN})", re.ASCII)
_BEARER: Final = re.compile(r"bearer +([!-~]+)", re.ASCII | re.IGNORECASE)
_PORT: Final = re.compile(
    r"(?P<v4>[0-9.]{7,15})(?::[0-9]{1,5})?|\[(?P<v6>[0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?", re.ASCII
)

Headers = Mapping[str, Sequence[str]]
"""Lines by name."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a request carries. `session_id` is `None` where none was sent; the other parts are empty then."""

    session_id: str | None
    client_ip: str
    device_fingerprint: str
    user_agent: str


class RequestReader:
    """Reads requests as the app says. Immutable."""

    def __init__(
        self,
        *,
        session_id_from: Sequence[str] = ("cookie:session_id", "bearer"),
        trusted_proxies: Sequence[str] = (),
        device_fingerprint_header: str = "x-device-fingerprint",
    ) -> None:
        """Say where things stand. Raises `ValueError` for what cannot be used.

        `session_id_from`: places, `cookie:NAME` or `bearer`, of which the first counts in which anything was sent.
        `trusted_proxies`: addresses and networks of the proxies in front of the app, or `unix`.
        """
        if isinstance(session_id_from, str) or not all(map(_PLACE.fullmatch, session_id_from)) or not session_id_from:
            raise ValueError("session_id_from holds bearer and cookie:NAME")
        if isinstance(trusted_proxies, str):
            raise ValueError("trusted_proxies is a list")
        self._places = tuple(session_id_from)
        self._trusted = tuple(_trusted_network(text) for text in trusted_proxies if text != UNIX)
        self._trusts_unix = UNIX in trusted_proxies
        self._device_header = device_fingerprint_header.lower()

    @property
    def header_names(self) -> frozenset[str]:
        """The headers that are looked at; the others need not be given."""
        return frozenset(("authorization", "cookie", "user-agent", "x-forwarded-for", self._device_header))

    def read(self, headers: Headers, *, peer: str) -> Carried:
        """Read a request that came from the address `peer`, which is empty for a Unix socket."""
        return Carried(
            session_id=self._session_id(headers),
            client_ip=self._client_ip(peer, headers.get("x-forwarded-for", ())),
            device_fingerprint=_only(headers.get(self._device_header, ()), _MAX_DEVICE_BYTES),
            user_agent=_only(headers.get("user-agent", ()), _MAX_USER_AGENT_BYTES),
        )

    def _session_id(self, headers: Headers) -> str | None:
        """Take the session id from the first place in which anything was sent.

        Two different values in one place are none: a site beside this one can set a cookie of the same name.
        """
        for place in self._places:
            values = set(_values(place, headers))
            if values:
                value = values.pop()
                return value if not values and len(value) <= _MAX_SESSION_ID_CHARS else NOT_A_SESSION_ID
        return None

    def _client_ip(self, peer: str, forwarded: Sequence[str]) -> str:
        """Walk from the peer along what trusted proxies wrote, to the first address that is none of theirs.

        Empty where that cannot be read, or there are too many: never a guess, for what stands left of it the client
        may have written.
        """
        address = _address(peer)
        if address is None and not (peer in ("", UNIX) and self._trusts_unix):
            return ""
        if address is not None and not self._is_trusted(address):
            return str(address)
        elements = ",".join(forwarded).split(",") if forwarded else []
        if len(elements) > _MAX_ADDRESSES:
            return ""
        for element in reversed(elements):
            address = _address(_without_port(element.strip(" \t")))
            if address is None:
                return ""
            if not self._is_trusted(address):
                return str(address)
        return ""

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _values(place: str, headers: Headers) -> Iterable[str]:
    if place == "bearer":
        # WSGI has several lines as one, with commas between them; no token holds one.
        lines = [line for joined in headers.get("authorization", ()) for line in joined.split(",")]
        found = [_BEARER.fullmatch(line.strip(" \t")) for line in lines]
        return [match[1] for match in found if match is not None]
    return _cookies_named(headers.get("cookie", ()), place.partition(":")[2])


def _cookies_named(lines: Iterable[str], name: str) -> list[str]:
    """Take the values of the cookies of one name, as RFC 6265 has a server read them; names differ by case."""
    found = []
    for line in lines:
        for pair in line.split(";"):
            key, equals, value = pair.strip(" \t").partition("=")
            if equals and key.strip(" \t") == name:
                found.append(value.strip(" \t").strip('"'))
    return found


def _only(lines: Sequence[str], most: int) -> str:
    """Take the only line; what was sent twice, or is too long to be compared, counts as not sent."""
    return lines[0] if len(lines) == 1 and len(lines[0].encode(errors="surrogatepass")) <= most else ""


def _without_port(text: str) -> str:
    found = _PORT.fullmatch(text)
    return text if found is None else found["v4"] or found["v6"]


def _address(text: str) -> Address | None:
    """Read an address; an IPv4 one that is mapped into IPv6 is that IPv4 address, and one with a zone is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def _trusted_network(text: str) -> Network:
    network = ipaddress.ip_network(text, strict=True)
    if network.prefixlen == 0:
        raise ValueError("trusted_proxies: all addresses cannot be trusted")
    return network
