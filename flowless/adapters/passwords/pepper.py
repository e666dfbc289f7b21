"""A pepper: a key beside the database, without which a stolen table of hashes cannot be guessed at.

The password is put through HMAC-SHA-256 under the key before Argon2id (OWASP Password Storage Cheat Sheet,
peppering). The stored hash names the key by its id: `pepper=ID;$argon2id$…`, so that keys can be changed, one user
at a time, at their logins. The first key of the file is used for new hashes; all are known.
"""

import base64
import hmac
import re
from collections.abc import Sequence
from typing import Final

KEY_BYTES: Final = 32
_MARK: Final = "pepper="
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}", re.ASCII)


class PepperError(ValueError):
    """The file holds no usable keys; the text says what it takes and nothing of what it holds."""


class Pepper:
    """Keys by id; none of them is a pepper too: then hashes are of the password itself."""

    def __init__(self, *, keys: Sequence[tuple[str, bytes]] = ()) -> None:
        self._keys = dict(keys)
        self.current = keys[0][0] if keys else ""

    @classmethod
    def parse(cls, text: str) -> "Pepper":
        """Read lines of `id:base64 of 32 bytes`, the first for new hashes. Raises PepperError."""
        keys = []
        for line in text.split():
            name, _, encoded = line.partition(":")
            try:
                key = base64.b64decode(encoded, validate=True)
            except ValueError:
                key = b""
            if _ID.fullmatch(name) is None or len(key) != KEY_BYTES:
                raise PepperError(f"each line must be an id, a colon and {KEY_BYTES} random bytes as base64")
            keys.append((name, key))
        if not keys or len(dict(keys)) != len(keys):
            raise PepperError("there must be at least one key, each with an id of its own")
        return cls(keys=keys)

    def split(self, stored: str) -> tuple[str, str]:
        """Take a stored hash apart: the id of its pepper, or nothing, and the hash."""
        if not stored.startswith(_MARK):
            return "", stored
        name, _, inner = stored.removeprefix(_MARK).partition(";")
        return name, inner

    def join(self, inner: str) -> str:
        """Name the current pepper in a hash that was made with it."""
        return f"{_MARK}{self.current};{inner}" if self.current else inner

    def knows(self, name: str) -> bool:
        """Whether hashes under this id can be checked; those under none can."""
        return not name or name in self._keys

    def applied(self, name: str, password: bytes) -> bytes:
        """Give what is hashed of a password under the pepper of this id, or under none."""
        return base64.b64encode(hmac.digest(self._keys[name], password, "sha256")) if name else password
