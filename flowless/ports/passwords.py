"""What the services need of password hashing."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of checking a password; `outdated` when a match was hashed with another profile than today's."""

    matches: bool
    outdated: bool = False


class PasswordHasher(Protocol):
    """Hashes passwords off the event loop, with bounded concurrency and a bounded queue.

    Both methods raise TrustError HASHING_OVERLOADED at once when the queue is full.
    """

    async def hash(self, password: str) -> str:
        """Hash a new password with today's profile."""
        ...

    async def verify(self, password_hash: str | None, password: str) -> Verdict:
        """Check a password; without a hash (unknown user) it costs the same and never matches."""
        ...
