"""Sessions as Redis keeps them: sealed, so that who can write to Redis can neither make, alter, move nor read one.

XChaCha20-Poly1305 (libsodium's) under a key that Redis never sees, with a random nonce of 192 bits: safe for as many
entries as there will ever be. The entry's place is authenticated with it (the log's name and the session's digest),
so an entry is worth nothing under another key of Redis or beside another database. What remains is to put an old
entry back where it was; its revision is inside the seal, and `SessionTiers` knows what happened since.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from nacl.exceptions import CryptoError
from nacl.secret import Aead

from flowless.adapters.sql import rows
from flowless.domain.sessions import SessionRead

KEY_BYTES: Final = Aead.KEY_SIZE
_CONTEXT: Final = b"trustlayer session tier 1\0"


class PayloadSealer:
    """Seals with the first key and opens with each, so that keys can be changed one replica after the other."""

    def __init__(self, *, keys: Sequence[bytes]) -> None:
        """Each key has `KEY_BYTES` bytes; at least one."""
        self._boxes = [Aead(key) for key in keys]
        if not self._boxes:
            raise ValueError("no key")

    def seal(self, read: SessionRead, *, digest: bytes, log_id: str) -> bytes:
        """Seal a session that was found."""
        if read.session is None or read.user is None:
            raise ValueError("nothing to seal")
        plain = {
            "revision": read.revision,
            "epoch": read.user_epoch,
            "session": rows.session_values(read.session),
            "user": rows.user_values(read.user),
        }
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=_hex)
        return bytes(self._boxes[0].encrypt(text.encode(), _place(digest, log_id)))

    def open(self, sealed: bytes, *, digest: bytes, log_id: str) -> SessionRead | None:
        """Open an entry; `None` for one that was not sealed for this place with one of our keys."""
        for box in self._boxes:
            try:
                return _read_of(box.decrypt(sealed, _place(digest, log_id)), digest)
            except (CryptoError, ValueError, KeyError, TypeError):
                continue  # another key's, somebody else's, or of a Flowless whose records have other fields
        return None


def _place(digest: bytes, log_id: str) -> bytes:
    return _CONTEXT + log_id.encode() + b"\0" + digest


def _hex(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    raise TypeError


def _bytes(value: dict[str, Any]) -> Any:
    return bytes.fromhex(value["hex"]) if value.keys() == {"hex"} else value


def _read_of(text: bytes, digest: bytes) -> SessionRead | None:
    plain = json.loads(text, object_hook=_bytes)
    session = rows.session_of(plain["session"])
    if session.digest != digest:
        return None
    return SessionRead(
        revision=plain["revision"], session=session, user=rows.user_of(plain["user"]), user_epoch=plain["epoch"]
    )
