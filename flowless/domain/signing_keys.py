"""Signing keys: Ed25519 keys that sign trust tokens, and which of them sign and verify."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

MAX_OVERLAP: Final = timedelta(days=90)


class KeyState(StrEnum):
    """What a key is used for."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key as stored. `wrapped` is its private part under the key of a file, empty when destroyed.

    A retired key verifies until `expires_at`.
    """

    key_id: str
    public_key: bytes
    wrapped: str
    state: KeyState
    created_at: datetime
    activated_at: datetime | None = None
    retired_at: datetime | None = None
    expires_at: datetime | None = None

    def verifies(self, now: datetime) -> bool:
        """Whether tokens that this key signed are good."""
        if self.state is KeyState.RETIRED:
            return self.expires_at is not None and now < self.expires_at
        return self.state in (KeyState.ACTIVE, KeyState.NEXT)
