"""What the services need of e-mail address parsing."""

from typing import Protocol


class EmailAddresses(Protocol):
    """Knows one canonical form of each e-mail address."""

    def canonical(self, address: str) -> str | None:
        """Return the form in which addresses are compared, or `None` when it is not an address."""
        ...
