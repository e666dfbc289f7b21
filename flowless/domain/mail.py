"""Mail that is to be sent: what it is about and to whom; never the text, never a token."""

from dataclasses import dataclass


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
