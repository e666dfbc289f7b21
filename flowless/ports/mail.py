"""What sending mail needs: an outbox, words, the tokens that links carry, and somebody who takes the mail."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from flowless.domain.mail import ClaimedMail, Letter, MailOutcome


class Outbox(Protocol):
    """Mail that waits. It gets there in the transaction of what it tells. Errors are those of storage."""

    async def claim(self, *, now: datetime, until: datetime, limit: int) -> Sequence[ClaimedMail]:
        """Take mails that are due for the caller alone: they are due again at `until`, should it never settle them.

        Of two who claim at once, one gets a mail.
        """
        ...

    async def settle(self, claimed: ClaimedMail, outcome: MailOutcome, *, now: datetime) -> None:
        """Say what became of a mail, and forget whom it was for. Nothing happens when it was claimed again since."""
        ...

    async def postpone(self, claimed: ClaimedMail, *, due: datetime) -> None:
        """Make a mail due at another time. Nothing happens when it was claimed again since."""
        ...

    async def waiting(self) -> int:
        """Count the mails that are not settled."""
        ...


class TokenTexts(Protocol):
    """Texts of trust tokens, which are not stored."""

    async def token_text(self, jti: str) -> str | None:
        """Sign a token again from its row; `None` when it cannot be redeemed any more. Errors: TrustError."""
        ...


class MailTexts(Protocol):
    """Words for each template, in the languages that there are."""

    def letter(self, template: str, *, locale: str, link: str, expires_at: datetime | None) -> Letter:
        """Write a mail in the nearest language. Raises MailError for a template without words."""
        ...


class MailTransport(Protocol):
    """Somebody who takes mail."""

    async def send(self, letter: Letter, *, mail_id: str, recipient: str, written_at: datetime) -> None:
        """Hand a mail over; returns when it was taken. Raises MailError.

        Cancelled or lost on the way, it may have been taken: the same `mail_id` tells the recipient's mailbox that
        it is the same mail.
        """
        ...
