"""Settings of the gate: who may ask it, and how requests are read. Part of `config.SidecarConfig`."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bridge_sidecar.client_ip import FORWARDED, X_FORWARDED_FOR, ClientIp, trusted_network
from bridge_sidecar.http_requests import RequestReader, SessionSource, SourceError, is_header_name
from bridge_sidecar.identity_headers import KNOWN

UNIX: Final = "unix:"
_MAX_LISTED: Final = 64
_CLIENT_IP_HEADERS: Final = (X_FORWARDED_FOR, FORWARDED)
FORWARD_AUTH_REQUEST_HEADERS: Final = {
    "x-forwarded": ("x-forwarded-method", "x-forwarded-uri"),
    "x-original": ("x-original-method", "x-original-uri"),
}
"""Where a proxy says method and URI of the request that it asks about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """See the module."""

    ext_authz: bool = False
    """Serve Envoy's `envoy.service.auth.v3.Authorization` on the socket."""
    forward_auth_listen: str = ""
    """`host:port` on loopback, or `unix:/path`, of the endpoint for nginx, Caddy and Traefik; empty: none."""
    forward_auth_request_headers: str = "x-forwarded"
    """A key of `FORWARD_AUTH_REQUEST_HEADERS`. Only these are read: a client may have written the others."""
    session_id_from: tuple[str, ...] = ("cookie:session_id", "bearer")
    """Places where a session id may stand; the first in which something was sent counts."""
    device_fingerprint_header: str = "x-device-fingerprint"
    client_ip_header: str = X_FORWARDED_FOR
    """The header that the trusted proxies keep."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies between clients and the proxy that asks. None of them is ever a client."""
    identity_headers: tuple[str, ...] = ("x-user-id", "x-session-handle", "x-user-roles")
    """What the app is told. Whatever a client sent under any known name is removed, listed or not."""

    @property
    def request_reader(self) -> RequestReader:
        """What reads requests."""
        return RequestReader(
            sources=tuple(map(SessionSource, self.session_id_from)), device_header=self.device_fingerprint_header
        )

    @property
    def client_ip(self) -> ClientIp:
        """What finds the client IP."""
        return ClientIp(header=self.client_ip_header, trusted=tuple(map(trusted_network, self.trusted_proxies)))


def problems_of(settings: GateSettings) -> list[str]:
    """List what cannot be used."""
    problems = []
    if settings.forward_auth_listen and not is_local_listen_address(settings.forward_auth_listen):
        problems.append(
            "forward_auth_listen: must be host:port on loopback, unix:/absolute/path, or empty: what is said there "
            "is believed, and nothing encrypts it"
        )
    for key, choices in (
        ("forward_auth_request_headers", tuple(FORWARD_AUTH_REQUEST_HEADERS)),
        ("client_ip_header", _CLIENT_IP_HEADERS),
    ):
        if getattr(settings, key) not in choices:
            problems.append(f"{key}: must be one of {', '.join(choices)}")
    if not is_header_name(settings.device_fingerprint_header):
        problems.append("device_fingerprint_header: must be the name of a header, in lower case")
    if not set(settings.identity_headers) <= set(KNOWN):
        problems.append(f"identity_headers: must be some of {', '.join(KNOWN)}")
    problems += _problem_of_sources(settings.session_id_from)
    problems += _problem_of_proxies(settings.trusted_proxies)
    return problems


def _problem_of_sources(sources: tuple[str, ...]) -> list[str]:
    try:
        for source in sources:
            SessionSource(source)
    except SourceError as error:
        return [f"session_id_from: each {error}"]
    if not 1 <= len(sources) == len(set(sources)) <= _MAX_LISTED:
        return [f"session_id_from: must be 1 to {_MAX_LISTED} places, each once"]
    return []


def _problem_of_proxies(proxies: tuple[str, ...]) -> list[str]:
    try:
        for proxy in proxies:
            trusted_network(proxy)
    except ValueError:
        return [
            "trusted_proxies: each must be an address or a network like 10.1.0.0/16, with no bits behind the prefix, "
            "and not everything"
        ]
    return [] if len(proxies) <= _MAX_LISTED else [f"trusted_proxies: must be at most {_MAX_LISTED}"]


def is_local_listen_address(listen: str) -> bool:
    """Whether it is `unix:/absolute/path`, or `host:port` where only this machine can reach it."""
    if listen.startswith(UNIX):
        return Path(listen.removeprefix(UNIX)).is_absolute()
    host, _, port = listen.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        return False
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
