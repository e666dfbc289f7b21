"""Links that mails carry: a URL of the operator's with the token in it. No caller's word gets into the rest of it."""

import ipaddress
from typing import Final
from urllib.parse import quote, urlsplit

TOKEN: Final = "{token}"
_MOST_CHARS: Final = 2_000


def is_loopback(host: str) -> bool:
    """Whether a host in a URL is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def link_problem(url: str) -> str | None:
    """Say what is wrong with a URL that links are made of; `None` when nothing is."""
    if url.count(TOKEN) != 1 or "{" in url.replace(TOKEN, "") or len(url) > _MOST_CHARS:
        return "must hold {token} once, and no other brace"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "must be a URL in ASCII, without spaces"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_whole = bool(host) and parts.port != 0 and parts.username is None
    except ValueError:
        is_whole, host = False, ""
    if not is_whole or TOKEN in parts.netloc or parts.scheme not in ("https", "http"):
        return "must be https://host/… with {token} after the host"
    if parts.scheme == "http" and not is_loopback(host):
        return "must be https://: over http:// who listens can redeem the token"
    return None


def link_of(url: str, token: str) -> str:
    """Put a token into its place."""
    return url.replace(TOKEN, quote(token, safe=""))
