"""What the services need of trust tokens: to sign and read their text, and to store and spend them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from flowless.domain.audit import AuditEvent
from flowless.domain.mail import OutgoingMail
from flowless.domain.sessions import Session
from flowless.domain.signing_keys import SigningKey
from flowless.domain.trust_tokens import Redemption, TrustToken
from flowless.domain.users import User
from flowless.ports.stores import NewUser, SessionRoom


class UnsignedToken(Protocol):
    """A token's text taken apart, before its signature is looked at."""

    @property
    def key_id(self) -> str:
        """Name of the key that it says it was signed with."""
        ...


class TokenFormat(Protocol):
    """PASETO v4.public and the PASERK forms of keys. Nothing here raises on what others wrote; it says `None`."""

    def new_key(self, *, now: datetime) -> SigningKey:
        """Make a key, its private part wrapped. TrustError SIGNING_NOT_CONFIGURED without a key to wrap with."""
        ...

    def rewrapped(self, key: SigningKey) -> SigningKey:
        """Wrap the private part anew, under the first wrapping key. TrustError as in `new_key`."""
        ...

    def public_text(self, key: SigningKey) -> str:
        """PASERK `k4.public.…`."""
        ...

    def sign(self, key: SigningKey, claims: bytes, *, implicit: bytes) -> str:
        """Sign. TrustError SIGNING_NOT_CONFIGURED when no wrapping key opens the private part."""
        ...

    def parse(self, text: str) -> UnsignedToken | None:
        """Take a token apart; `None` unless it is the one spelling of a v4.public token with our footer."""
        ...

    def verified(self, token: UnsignedToken, key: SigningKey, *, implicit: bytes) -> bytes | None:
        """Claims of a token whose signature is this key's over them and the implicit assertion."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeemed:
    """A token that was spent, and what of the log's position that wrote; 0 when nothing."""

    token: TrustToken
    revision: int = 0


class TrustTokenStore(Protocol):
    """Tokens by jti. Each method that spends does it with its effect in one transaction, by one conditional update.

    A token is good when it is unspent, not void, not expired, of this purpose and audience, signed by a key that
    verifies, and of no user, or of an active one whose password and address are those of when it was issued. Of any
    number of callers exactly one spends it. `None`: it was not good; nothing has changed then.
    """

    async def issue(self, token: TrustToken, *, mail: tuple[OutgoingMail, ...], event: AuditEvent) -> bool:
        """Add a token and void the unspent ones of its purpose and subject; mail of a void token is not sent.

        `False`: its key signs no more, and nothing was changed.
        """
        ...

    async def find_good(self, redemption: Redemption, *, now: datetime) -> TrustToken | None:
        """Read a token that could be spent now."""
        ...

    async def get(self, jti: str, *, now: datetime) -> TrustToken | None:
        """Read a token that could be spent now, whatever its purpose."""
        ...

    async def consume(self, redemption: Redemption, *, now: datetime, event: AuditEvent) -> Redeemed | None:
        """Spend it; nothing else happens."""
        ...

    async def verify_email(self, redemption: Redemption, *, now: datetime, event: AuditEvent) -> Redeemed | None:
        """Spend it and note that its address is its user's, if that is still the user's address."""
        ...

    async def reset_password(
        self, redemption: Redemption, *, new_hash: str, now: datetime, event: AuditEvent
    ) -> Redeemed | None:
        """Spend it, replace the password, revoke the user's sessions, void the user's tokens."""
        ...

    async def log_in(
        self, redemption: Redemption, session: Session, *, room: SessionRoom, event: AuditEvent
    ) -> tuple[Session, User] | None:
        """Spend it, note that its address is its user's, and add a session, of the user's present epoch."""
        ...

    async def add_user(self, redemption: Redemption, new: NewUser, *, event: AuditEvent) -> Redeemed | None:
        """Spend it and add a user; TrustError EMAIL_TAKEN or USER_NAME_TAKEN leaves it unspent."""
        ...

    async def change_email(
        self, redemption: Redemption, *, notice: OutgoingMail | None, now: datetime, event: AuditEvent
    ) -> tuple[User, int] | None:
        """Spend it, give its user its address, void the user's tokens. `None` too when another has the address.

        The notice goes to the address that the user had.
        """
        ...

    async def revoke(
        self, purpose: str, *, user_id: str | None, canonical_email: str, now: datetime, event: AuditEvent
    ) -> None:
        """Void the subject's unspent tokens of a purpose."""
        ...


class SigningKeyStore(Protocol):
    """Signing keys."""

    async def list(self) -> list[SigningKey]:
        """List all keys, newest first."""
        ...

    async def rotate(
        self, fresh: tuple[SigningKey, SigningKey], *, overlap_until: datetime, now: datetime, event: AuditEvent
    ) -> SigningKey:
        """Retire the active key, activate the next one, add a next one; return the one that signs now.

        Where there is no next key, the second fresh one is activated. Two rotations at once happen in some order.
        """
        ...

    async def destroy(self, key_id: str, *, event: AuditEvent) -> None:
        """Erase the private part of a retired key; a destroyed one stays so.

        TrustError SIGNING_KEY_NOT_FOUND, SIGNING_KEY_IN_USE.
        """
        ...

    async def replace_wrapped(self, key_id: str, *, expected: str, wrapped: str, event: AuditEvent) -> None:
        """Store a private part that was wrapped anew; nothing happens when it changed meanwhile."""
        ...
