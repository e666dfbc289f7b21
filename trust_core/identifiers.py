"""The opaque identifiers of the Trust Layer: how they are made, recognised and digested.

A secret identifier is `prefix + 43 base62 characters + 6 base62 characters`: 256 bits from the operating
system's CSPRNG (OWASP ASVS 5.0 7.2.3 asks for 128) and a CRC-32 of everything before it. The
checksum is no protection; it lets a typing error or a flood of garbage be refused without asking anybody, and
lets secret scanners be certain. Storage, logs and caches only ever see the SHA-256 of the whole text, which
needs no salt because the text is uniformly random.

One identifier has exactly one spelling: it is compared as text and never decoded.
"""

import hashlib
import re
import zlib
from collections.abc import Callable
from typing import Final

RandomBytes = Callable[[int], bytes]
"""Returns that many bytes from a CSPRNG; `os.urandom` outside tests."""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_CHARS: Final = 43  # 62**43 > 2**256
_NAME_CHARS: Final = 22  # 62**22 > 2**128
_BRIDGE_ID_CHARS: Final = 16
_CHECKSUM_CHARS: Final = 6  # 62**6 > 2**32

SESSION_ID_PREFIX: Final = "sess_"
BRIDGE_SECRET_PREFIX: Final = "brdg_"
SESSION_HANDLE_PREFIX: Final = "sh_"
USER_ID_PREFIX: Final = "usr_"
DIGEST_BYTES: Final = 32

_SESSION_ID = re.compile(rf"{SESSION_ID_PREFIX}[0-9A-Za-z]{{{_SECRET_CHARS + _CHECKSUM_CHARS}}}", re.ASCII)
_BRIDGE_SECRET = re.compile(
    rf"{BRIDGE_SECRET_PREFIX}([0-9A-Za-z]{{{_BRIDGE_ID_CHARS}}})_[0-9A-Za-z]{{{_SECRET_CHARS + _CHECKSUM_CHARS}}}",
    re.ASCII,
)
_HANDLE = re.compile(rf"{SESSION_HANDLE_PREFIX}[0-9A-Za-z]{{{_NAME_CHARS}}}", re.ASCII)
_USER_ID = re.compile(rf"{USER_ID_PREFIX}[0-9A-Za-z]{{{_NAME_CHARS}}}", re.ASCII)
_BRIDGE_ID = re.compile(rf"[0-9A-Za-z]{{{_BRIDGE_ID_CHARS}}}", re.ASCII)

SECRET_PATTERN: Final = re.compile(
    rf"(?:{SESSION_ID_PREFIX}|{BRIDGE_SECRET_PREFIX}[0-9A-Za-z]{{{_BRIDGE_ID_CHARS}}}_)[0-9A-Za-z]{{8,}}"
    r"|v4\.public\.[0-9A-Za-z_-]{8,}",
    re.ASCII,
)
"""Finds session ids, bridge secrets and trust tokens, whole or cut short, inside other text. Used to redact logs."""


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), _CHECKSUM_CHARS)


def _has_valid_checksum(text: str) -> bool:
    return _checksum(text[:-_CHECKSUM_CHARS]) == text[-_CHECKSUM_CHARS:]


def _with_secret(prefix: str, random: RandomBytes) -> str:
    body = prefix + _base62(int.from_bytes(random(32)), _SECRET_CHARS)
    return body + _checksum(body)


def new_session_id(random: RandomBytes) -> str:
    """Make a session id, `sess_…`, 54 characters."""
    return _with_secret(SESSION_ID_PREFIX, random)


def new_bridge_id(random: RandomBytes) -> str:
    """Make a bridge id: 16 base62 characters, public."""
    return _base62(int.from_bytes(random(11)), _BRIDGE_ID_CHARS)


def new_bridge_secret(bridge_id: str, random: RandomBytes) -> str:
    """Make a bridge secret, `brdg_<bridge id>_…`, 71 characters."""
    return _with_secret(f"{BRIDGE_SECRET_PREFIX}{bridge_id}_", random)


def new_session_handle(random: RandomBytes) -> str:
    """Make a session handle, `sh_…`, 25 characters, public."""
    return SESSION_HANDLE_PREFIX + _base62(int.from_bytes(random(16)), _NAME_CHARS)


def new_user_id(random: RandomBytes) -> str:
    """Make a user id, `usr_…`, 26 characters, public."""
    return USER_ID_PREFIX + _base62(int.from_bytes(random(16)), _NAME_CHARS)


def digest(secret: str) -> bytes:
    """SHA-256 of an identifier: the only form that may be stored, cached, logged or sent to a watcher."""
    return hashlib.sha256(secret.encode("ascii")).digest()


def session_digest(session_id: str) -> bytes | None:
    """Digest of a well-formed session id; `None` for everything else, without raising, whatever the text holds."""
    if _SESSION_ID.fullmatch(session_id) is None or not _has_valid_checksum(session_id):
        return None
    return digest(session_id)


def bridge_of_secret(secret: str) -> str | None:
    """Bridge id inside a well-formed bridge secret; `None` for everything else."""
    match = _BRIDGE_SECRET.fullmatch(secret)
    if match is None or not _has_valid_checksum(secret):
        return None
    return match.group(1)


def is_session_handle(text: str) -> bool:
    """Whether the text has the form of a session handle."""
    return _HANDLE.fullmatch(text) is not None


def is_user_id(text: str) -> bool:
    """Whether the text has the form of a user id."""
    return _USER_ID.fullmatch(text) is not None


def is_bridge_id(text: str) -> bool:
    """Whether the text has the form of a bridge id."""
    return _BRIDGE_ID.fullmatch(text) is not None


def redact(text: str) -> str:
    """Replace every session id, bridge secret and trust token inside the text by its beginning and `[redacted]`."""
    return SECRET_PATTERN.sub(lambda m: m.group(0)[:5] + "[redacted]", text)
