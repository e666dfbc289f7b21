"""PASETO v4.public and PASERK, by the pyseto library, behind a parser that knows one spelling of each token.

The library accepts padding and unused bits in base64url, so one token has many spellings there. Here a text is taken
apart first, and each part must be what encoding its bytes gives again; the library sees bytes only.
"""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pyseto.exceptions import PysetoError
from pyseto.versions.v4 import V4Public

from flowless.domain.signing_keys import KeyState, SigningKey
from flowless.domain.trust_tokens import TOKEN_CHARS
from flowless.ports.trust_tokens import UnsignedToken
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import RandomBytes

WRAPPING_KEY_BYTES: Final = 32
_HEADER: Final = "v4.public."
_SIGNATURE_BYTES: Final = 64
_FORM: Final = re.compile(r"v4\.public\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_KEY_ID: Final = re.compile(r"k4\.pid\.[A-Za-z0-9_-]{44}", re.ASCII)
_FOOTER_CHARS: Final = 128


@dataclass(frozen=True, slots=True)
class Parsed:
    """See `flowless.ports.trust_tokens.UnsignedToken`. `message` is claims and signature."""

    key_id: str
    message: bytes
    footer: bytes


class PasetoTokens:
    """See `flowless.ports.trust_tokens.TokenFormat`.

    The first wrapping key wraps, each unwraps, so that they can be changed one replica after the other.
    """

    def __init__(self, *, wrapping_keys: Sequence[bytes], random: RandomBytes) -> None:
        self._wrapping_keys = tuple(wrapping_keys)
        self._random = random

    def new_key(self, *, now: datetime) -> SigningKey:
        """See the port."""
        private = V4Public(Ed25519PrivateKey.from_private_bytes(self._random(32)))
        return SigningKey(
            key_id=private.to_peer_paserk_id(),
            public_key=_public_bytes(private),
            wrapped=self._wrap(private),
            state=KeyState.NEXT,
            created_at=now,
        )

    def rewrapped(self, key: SigningKey) -> SigningKey:
        """See the port."""
        return SigningKey(
            key_id=key.key_id,
            public_key=key.public_key,
            wrapped=self._wrap(self._unwrap(key)),
            state=key.state,
            created_at=key.created_at,
            activated_at=key.activated_at,
            retired_at=key.retired_at,
            expires_at=key.expires_at,
        )

    def public_text(self, key: SigningKey) -> str:
        """See the port."""
        return _public(key).to_paserk()

    def sign(self, key: SigningKey, claims: bytes, *, implicit: bytes) -> str:
        """See the port."""
        footer = footer_of(key.key_id)
        signature = self._unwrap(key).sign(claims, footer, implicit)
        return f"{_HEADER}{encoded(claims + signature)}.{encoded(footer)}"

    def parse(self, text: str) -> UnsignedToken | None:
        """See the port."""
        if len(text) > TOKEN_CHARS:
            return None
        match = _FORM.fullmatch(text)
        if match is None or len(match[2]) > _FOOTER_CHARS:
            return None
        message, footer = decoded(match[1]), decoded(match[2])
        if message is None or footer is None or len(message) <= _SIGNATURE_BYTES:
            return None
        key_id = _key_id_of(footer)
        return None if key_id is None else Parsed(key_id, message, footer)

    def verified(self, token: UnsignedToken, key: SigningKey, *, implicit: bytes) -> bytes | None:
        """See the port."""
        if not isinstance(token, Parsed) or token.key_id != key.key_id:
            return None
        return verified_message(_public(key), token.message, footer=token.footer, implicit=implicit)

    def opens(self, key: SigningKey) -> bool:
        """Whether one of the wrapping keys opens the private part."""
        try:
            self._unwrap(key)
        except TrustError:
            return False
        return True

    def _wrap(self, private: V4Public) -> str:
        if not self._wrapping_keys:
            raise _not_configured()
        return private.to_paserk(wrapping_key=self._wrapping_keys[0])

    def _unwrap(self, key: SigningKey) -> V4Public:
        for wrapping_key in self._wrapping_keys:
            try:
                found = V4Public.from_paserk(key.wrapped, wrapping_key=wrapping_key)
            except (PysetoError, ValueError, IndexError):
                continue
            # The wrap vouches for the whole; that the row's own public part belongs to it is looked at here.
            if isinstance(found, V4Public) and _public_bytes(found) == key.public_key:
                return found
        raise _not_configured()


def _not_configured() -> TrustError:
    return TrustError(
        Reason.SIGNING_NOT_CONFIGURED,
        "trust tokens need signing keys that this Flowless can open: set signing_key_file; flowless keys rotate",
    )


def verified_message(public: V4Public, message: bytes, *, footer: bytes, implicit: bytes) -> bytes | None:
    """Claims of a message whose signature is right; `None` otherwise."""
    try:
        return public.verify(message, footer, implicit)
    except (PysetoError, ValueError):
        return None


def encoded(data: bytes) -> str:
    """Base64url without padding (RFC 4648 section 5), as PASETO and PASERK write it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decoded(text: str) -> bytes | None:
    """Bytes of the one base64url text that `encoded` writes for them; `None` for every other spelling."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    return data if encoded(data) == text else None


def footer_of(key_id: str) -> bytes:
    """Footer that names the signing key by its PASERK id."""
    return json.dumps({"kid": key_id}, separators=(",", ":")).encode("ascii")


def _key_id_of(footer: bytes) -> str | None:
    try:
        found = json.loads(footer)
    except (ValueError, RecursionError):
        return None
    key_id = found.get("kid") if isinstance(found, dict) else None
    if not isinstance(key_id, str) or _KEY_ID.fullmatch(key_id) is None or footer != footer_of(key_id):
        return None
    return key_id


def _public(key: SigningKey) -> V4Public:
    return V4Public(Ed25519PublicKey.from_public_bytes(key.public_key))


def _public_bytes(private: V4Public) -> bytes:
    text = decoded(private.to_paserk().removeprefix("k4.secret."))
    if text is None:
        raise ValueError("not a private key")
    return text[32:]
