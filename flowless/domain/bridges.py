"""Bridges: servers that may call Flowless, and what they may do."""

import hmac
import re
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final

BRIDGE_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}", re.ASCII)

_SPIFFE: Final = "spiffe://"
_SPIFFE_ID = re.compile(r"spiffe://[0-9a-z._-]{1,255}(?:/[0-9A-Za-z._-]+)+", re.ASCII)
_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)[0-9a-z](?:[0-9a-z-]{0,61}[0-9a-z])?(?:\.[0-9a-z](?:[0-9a-z-]{0,61}[0-9a-z])?)*"
)
MAX_CLIENT_ID_BYTES: Final = 2_048


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
    last_used_at: datetime | None = None
    """At most a batch behind; see `flowless.services.bridge_uses`."""

    def is_live(self, now: datetime) -> bool:
        """Whether the secret may still be used."""
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeUse:
    """One secret was good at that moment, and not noted later."""

    bridge_id: str
    digest: bytes
    at: datetime


def is_client_id(text: str) -> bool:
    """Whether the text can name a client: a SPIFFE id of a workload, or a DNS name in lower case and no wildcard.

    SPIFFE-ID 2.1 and 2.3: a trust domain of lower-case letters, and a path without empty, `.` and `..` segments.
    """
    if len(text) > MAX_CLIENT_ID_BYTES:
        return False
    if text.startswith(_SPIFFE):
        return _SPIFFE_ID.fullmatch(text) is not None and not {".", ".."} & set(text.split("/"))
    return _DNS_NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """What the certificate of a connection says of its client, after TLS verified it. Without one: nothing."""

    spiffe_ids: frozenset[str] = frozenset()
    dns_names: frozenset[str] = frozenset()

    def names(self, client_id: str) -> bool:
        """Whether it is that client's: kinds are not mixed, and a certificate of two SPIFFE ids is nobody's."""
        if client_id.startswith(_SPIFFE):
            return self.spiffe_ids == {client_id}
        return client_id in self.dns_names


NO_CERTIFICATE: Final = ClientCertificate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A bridge with the digests of its secrets.

    With a `client_id` it is bound: its secrets are worth something only over a connection with that client's
    certificate.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None
    client_id: str = ""
    last_used_at: datetime | None = None
    secrets: tuple[BridgeSecret, ...] = ()

    def live_secrets(self, now: datetime) -> tuple[BridgeSecret, ...]:
        """Secrets that work now, the oldest first."""
        return () if self.revoked_at is not None else tuple(s for s in self.secrets if s.is_live(now))

    def admits(self, certificate: ClientCertificate) -> bool:
        """Whether a connection with this certificate may be the bridge's."""
        return not self.client_id or certificate.names(self.client_id)

    def accepts(self, digest: bytes, now: datetime) -> bool:
        """Whether the digest is that of a live secret, comparing every secret in constant time."""
        if self.revoked_at is not None:
            return False
        matches = [hmac.compare_digest(s.digest, digest) and s.is_live(now) for s in self.secrets]
        return any(matches)
