"""Mail that is to be sent: what it is about and to whom; never the text, never a token."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMail:
    """One mail in the outbox.

    `id` is random and becomes the Message-ID, the same at each attempt. `template` is a purpose, or the name of a
    notice. `jti` names the trust token whose link the mail carries.
    """

    id: str
    template: str
    recipient: str
    locale: str = ""
    jti: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedMail:
    """A mail that one sender has for itself for a while: its `attempt`, from 1, is what tells it from a later one.

    `expires_at` is that of the token whose link it carries.
    """

    mail: OutgoingMail
    attempt: int
    created_at: datetime
    expires_at: datetime | None = None


class MailOutcome(StrEnum):
    """What became of a mail in the end."""

    SENT = "sent"
    """The mail server took it."""
    FAILED = "failed"
    """Refused for good, or too often."""
    EXPIRED = "expired"
    """Its token could not be redeemed any more when its turn came."""
    VOID = "void"
    """Written only so that whether a mail goes out cannot be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What a mail says."""

    subject: str
    text: str
    html: str = ""


class MailError(Exception):
    """A mail was not taken. The text is ours and names nobody; `permanent`: asking again would not help."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
