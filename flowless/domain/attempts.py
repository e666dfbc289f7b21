"""Attempts at passwords and trust tokens: what is counted, how long a wait grows, and what is one network. Pure.

docs/decisions/0010-attempt-limits.md has the argument (NIST SP 800-63B-4 section 3.2.2, ASVS 5.0 6.1.1 and 6.3.1).
"""

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from trust_core import modes

MINUTE: Final = 60
HOUR: Final = 3_600
DAY: Final = 86_400
KNOWN_SECONDS: Final = 30 * DAY
"""How long a network or a device counts as the account's own after its last success."""
_IPV6_NETWORK: Final = 64
"""What one subscriber has at least: RFC 6177 and RFC 4291 section 2.5.1 put the interface's own part below it."""


class AttemptKind(StrEnum):
    """What is attempted. Those with a budget in common are counted together, per account."""

    LOGIN = "login"
    REAUTHENTICATE = "reauthenticate"
    PASSWORD_CHANGE = "password_change"
    EMAIL_CHANGE = "email_change"
    TOKEN_ISSUE = "token_issue"
    TOKEN_CONSUME = "token_consume"

    @property
    def budget(self) -> str:
        """Name of the account's budget: whoever makes an account send mail does not delay its logins."""
        return self.value if self in (AttemptKind.TOKEN_ISSUE, AttemptKind.TOKEN_CONSUME) else "password"

    @property
    def proves(self) -> bool:
        """Whether success says who it is. What anybody may ask for is counted whether it succeeds or not."""
        return self is not AttemptKind.TOKEN_ISSUE


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLimits:
    """How many attempts, and how long the wait between them grows, in seconds."""

    free: int
    delay_max_seconds: int
    failed_per_account_per_day: int
    failed_per_ip_per_hour: int
    per_ip_per_minute: int
    per_bridge_per_minute: int

    def delay_seconds(self, delayed: int) -> int:
        """Give the wait that follows one more attempt when `delayed` have had to wait already: 1, 2, 4 and so on."""
        return min(1 << min(max(delayed, 0), 30), self.delay_max_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `amount` within `seconds`, counted from the first. The name keeps counters of one key apart."""

    name: str
    amount: int
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What counting one more came to: within the limit or not, and in how many seconds it begins anew."""

    within: bool
    seconds_left: int


def login_account(spelling: str) -> str:
    """Name the account that a login is about: a canonical e-mail address or user name, whoever has it or nobody."""
    return f"login:{spelling}"


def network_of(client_ip: str) -> str:
    """Name what is counted as one client: an IPv4 address, also when written as IPv6, or the /64 of an IPv6 one.

    Empty when the text is no address.
    """
    packed = modes.pack_ip(client_ip)
    if packed is None:
        return ""
    address = ipaddress.ip_address(packed)
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((packed, _IPV6_NETWORK), strict=False))
