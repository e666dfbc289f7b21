"""Bridges: servers that may call Flowless, and what they may do."""

import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final

BRIDGE_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}", re.ASCII)


class Scope(IntEnum):
    """Numbers as in `trustlayer.v1.Scope`, without those that no bridge can hold."""

    VALIDATE = 1
    IDENTITY = 2
    SESSIONS = 3
    TRUST_TOKENS = 4
    ADMIN = 5
    PUBFLOW = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeSecret:
    """SHA-256 of one secret of a bridge; without `expires_at` it lives as long as the bridge."""

    digest: bytes
    created_at: datetime
    expires_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether the secret may still be used."""
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A bridge with the digests of its secrets."""

    id: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None
    secrets: tuple[BridgeSecret, ...] = ()

    def live_secrets(self, now: datetime) -> int:
        """Count the secrets that work now."""
        return 0 if self.revoked_at is not None else sum(s.is_live(now) for s in self.secrets)

    def accepts(self, digest: bytes, now: datetime) -> bool:
        """Whether the digest is that of a live secret, comparing every secret in constant time."""
        if self.revoked_at is not None:
            return False
        matches = [hmac.compare_digest(s.digest, digest) and s.is_live(now) for s in self.secrets]
        return any(matches)
