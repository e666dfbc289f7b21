"""What the services need of password hashing, and of lists of passwords that nobody should have."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of checking a password; `outdated` when a match was hashed in another way than today's."""

    matches: bool
    outdated: bool = False


class PasswordHasher(Protocol):
    """Hashes passwords off the event loop, with bounded concurrency and a bounded queue.

    `hash` and `verify` raise TrustError HASHING_OVERLOADED at once when the queue is full.
    """

    def can_verify(self, password_hash: str) -> bool:
        """Whether a hash of another system is of a known scheme and not dearer than allowed."""
        ...

    def require_room(self) -> None:
        """Raise TrustError HASHING_OVERLOADED if a job would be refused now: nothing needs to be looked up for it."""
        ...

    async def hash(self, password: str) -> str:
        """Hash a new password with today's profile."""
        ...

    async def verify(self, password_hash: str | None, password: str, *, as_typed: str = "") -> Verdict:
        """Check a password; without a hash (unknown user, or one without a password) it costs the same, and is a no.

        `as_typed` is the password before normalising, for hashes of systems that did not do that.
        """
        ...


class BreachedPasswords(Protocol):
    """Passwords known from breaches. Never raises: who cannot be asked knows nothing."""

    async def is_known(self, form: str) -> bool:
        """Whether it is one."""
        ...
