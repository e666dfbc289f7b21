"""Trust tokens: what they are for, what is kept of them, and what their signature covers.

Of a token only its row counts: the text proves that the row's `jti` was handed out by this deployment for this
purpose and audience, and nothing else in it is believed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

EMAIL_VERIFY: Final = "email_verify"
PASSWORD_RESET: Final = "password_reset"
MAGIC_LINK: Final = "magic_link"
INVITATION: Final = "invitation"
EMAIL_CHANGE: Final = "email_change"
EMAIL_CHANGE_NOTICE: Final = "email_change_notice"
"""Mail to the address that is to be left."""
EMAIL_CHANGED: Final = "email_changed"
"""Mail to the address that was left."""

TOKEN_CHARS: Final = 4096
AUDIENCE_CHARS: Final = 128
DATA_BYTES: Final = 1024
PURPOSE: Final = re.compile(r"[a-z][a-z0-9_]{2,63}", re.ASCII)

_DAY: Final = timedelta(days=1)
_WEEK: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What a purpose asks for. `redeemed_by` names the RPC that redeems it, where it is not ConsumeTrustToken."""

    name: str
    longest: timedelta = _WEEK
    needs_user: bool = False
    redeemed_by: str = ""


BUILT_IN: Final = {
    purpose.name: purpose
    for purpose in (
        Purpose(name=EMAIL_VERIFY, needs_user=True),
        # What logs in or resets lives a day at most; who issues it says how long, and less is better.
        Purpose(name=PASSWORD_RESET, longest=_DAY, needs_user=True, redeemed_by="IdentityService/ResetPassword"),
        Purpose(name=MAGIC_LINK, longest=_DAY, needs_user=True, redeemed_by="SessionService/LoginWithTrustToken"),
        Purpose(name=INVITATION, longest=30 * _DAY, redeemed_by="IdentityService/AcceptInvitation"),
        Purpose(name=EMAIL_CHANGE, needs_user=True, redeemed_by="IdentityService/ConfirmEmailChange"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustToken:
    """A token as stored: everything but its text, which can be made again from this by who holds the signing key.

    `user_id` is absent for invitations, and for addresses that nobody has. `token_epoch` is its user's when whoever
    asked for it was looked up: a change of password or address since then makes it void from birth. `is_void` at
    issue: it redeems nothing and is there so that issuing costs and answers the same.
    """

    jti: str
    purpose: str
    audience: str
    user_id: str | None
    email: str
    canonical_email: str
    key_id: str
    bridge_id: str
    created_at: datetime
    expires_at: datetime
    data: Mapping[str, Any] = field(default_factory=dict)
    is_void: bool = False
    token_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """What somebody who shows a token whose signature is right wants to redeem."""

    jti: str
    purpose: str
    audience: str


def claims_of(token: TrustToken) -> bytes:
    """Write what the signature covers in the token itself: the same bytes whenever they are made of the same row.

    Nothing in it tells whether anybody has the address.
    """
    return _text(
        {
            "exp": token.expires_at.isoformat(),
            "iat": token.created_at.isoformat(),
            "jti": token.jti,
        }
    )


def implicit_assertion(purpose: str, audience: str) -> bytes:
    """Write what the signature covers beside the token (PASETO v4): a token of one purpose verifies for no other."""
    return _text({"audience": audience, "purpose": purpose, "use": "trustlayer.v1 trust token"})


def jti_of(claims: bytes) -> str | None:
    """Find the jti in claims whose signature was right; `None` when there is none of our form."""
    try:
        found = json.loads(claims)
    except (ValueError, RecursionError):
        return None
    jti = found.get("jti") if isinstance(found, dict) else None
    return jti if isinstance(jti, str) and re.fullmatch(r"[0-9a-f]{32}", jti) else None


def _text(value: Mapping[str, str]) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode("ascii")
