"""What the app is told when it starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from trustlayer.http_requests import RequestReader

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1"})


class SettingsError(Exception):
    """A setting is missing or wrong; the text says which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings. None of them is a secret: the sidecar holds the credential."""

    socket: str
    """Path of the sidecar's socket."""
    origin: str
    """Where browsers find the app: scheme, host and port, as they send it in `Origin`."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of the proxies in front of the app, whose X-Forwarded-For is believed."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read `TRUSTLAYER_SOCKET` and `APP_ORIGIN`; also `APP_HOST`, `APP_PORT` and `APP_TRUSTED_PROXIES` if set.

        Raises `SettingsError`.
        """
        for needed in ("TRUSTLAYER_SOCKET", "APP_ORIGIN"):
            if not environment.get(needed):
                raise SettingsError(f"{needed} is not set")
        port = environment.get("APP_PORT", "8000")
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise SettingsError("APP_PORT is no port")
        return cls(
            socket=environment["TRUSTLAYER_SOCKET"],
            origin=checked_origin(environment["APP_ORIGIN"]),
            host=environment.get("APP_HOST", "127.0.0.1"),
            port=int(port),
            trusted_proxies=checked_proxies(environment.get("APP_TRUSTED_PROXIES", "")),
        )

    @property
    def authority(self) -> str:
        """What browsers send in `Host`."""
        return urlsplit(self.origin).netloc


def checked_proxies(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of addresses and networks; raises `SettingsError` for what is neither."""
    proxies = tuple(part.strip() for part in text.split(",")) if text.strip() else ()
    try:
        RequestReader(trusted_proxies=proxies)
    except ValueError as error:
        raise SettingsError(f"APP_TRUSTED_PROXIES: {error}") from None
    return proxies


def checked_origin(text: str) -> str:
    """Return an origin if its cookies can be kept safe; raises `SettingsError`.

    Browsers take cookies that are `Secure` over https only, and from the machine itself.
    """
    parts = urlsplit(text)
    if (
        text != f"{parts.scheme}://{parts.netloc}"
        or not parts.hostname
        or "@" in parts.netloc
        or text != text.lower()
    ):
        raise SettingsError("APP_ORIGIN is no origin, such as https://accounts.example.org")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise SettingsError("APP_ORIGIN: over http, only localhost keeps its cookies to itself")
    return text
