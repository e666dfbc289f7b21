"""Does this request context satisfy this validation mode? One pure rule for both programs.

The rule only ever says "no" with a reason or lets the request pass: whatever is absent, unreadable or was not
bound at login is a "no". A stricter mode checks everything that a weaker one checks.
"""

import hmac
import ipaddress
from dataclasses import dataclass
from enum import IntEnum


class ValidationMode(IntEnum):
    """Numbers as in `trustlayer.v1.ValidationMode`; ordered by strictness."""

    STANDARD = 1
    ADVANCED = 2
    STRICT = 3


class DenialReason(IntEnum):
    """Numbers as in `trustlayer.v1.DenialReason`; a test holds the two together."""

    MALFORMED = 1
    UNKNOWN = 2
    EXPIRED = 3
    IDLE = 4
    REVOKED = 5
    USER_DISABLED = 6
    CONTEXT_MISSING = 7
    CONTEXT_NOT_BOUND = 8
    IP_MISMATCH = 9
    DEVICE_MISMATCH = 10
    USER_AGENT_MISMATCH = 11
    ROLE_MISSING = 12
    AUTHENTICATION_TOO_OLD = 13
    ROUTE_NOT_COVERED = 14


DENIAL_TEXT: dict[DenialReason, str] = {
    DenialReason.MALFORMED: "not a session id",
    DenialReason.UNKNOWN: "no such session",
    DenialReason.EXPIRED: "the session is past its absolute expiry",
    DenialReason.IDLE: "the session was not used for longer than the idle limit",
    DenialReason.REVOKED: "the session was revoked",
    DenialReason.USER_DISABLED: "the user is disabled or deleted",
    DenialReason.CONTEXT_MISSING: "the mode needs a part of the request context that was not sent",
    DenialReason.CONTEXT_NOT_BOUND: "the mode needs a part of the context that was not bound at login",
    DenialReason.IP_MISMATCH: "the client IP is not the one bound at login",
    DenialReason.DEVICE_MISMATCH: "the device fingerprint is not the one bound at login",
    DenialReason.USER_AGENT_MISMATCH: "the user agent is not the one bound at login",
    DenialReason.ROLE_MISSING: "the user does not have the roles that the route asks for",
    DenialReason.AUTHENTICATION_TOO_OLD: "the user has to prove who they are again for this route",
    DenialReason.ROUTE_NOT_COVERED: "no rule of the sidecar's configuration covers this request",
}
"""For people; not stable."""

MISMATCHES: frozenset[DenialReason] = frozenset(
    (DenialReason.IP_MISMATCH, DenialReason.DEVICE_MISMATCH, DenialReason.USER_AGENT_MISMATCH)
)
"""The session id comes from somewhere else than the login did. Something missing is no sign of that."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What the app knows about the request; an empty string is an absent part."""

    client_ip: str = ""
    device_fingerprint: str = ""
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a session was bound to at login; empty bytes are an absent part.

    The digests are keyed with random bytes of the session, so that equal devices of two sessions do not look
    equal to someone who reads the database.
    """

    client_ip: bytes = b""
    key: bytes = b""
    device_fingerprint: bytes = b""
    user_agent: bytes = b""


@dataclass(frozen=True, slots=True)
class IpPrefixes:
    """How many leading bits of the client IP must be those bound at login; 1 to 32, and 1 to 128."""

    v4: int = 32
    v6: int = 64

    @property
    def are_valid(self) -> bool:
        """Whether both are in their range. 0 bits would compare nothing."""
        return 1 <= self.v4 <= 32 and 1 <= self.v6 <= 128


DEFAULT_PREFIXES: IpPrefixes = IpPrefixes()
"""The default: one IPv4 address, or one IPv6 network of the size of a link (RFC 4291), within which a host changes
its address by itself (RFC 8981)."""


def pack_ip(text: str) -> bytes | None:
    """Pack an address into 4 or 16 bytes, IPv4-mapped IPv6 as IPv4; `None` when it is not an address.

    A zone (`fe80::1%eth0`) names an interface of one machine and means nothing to another: refused.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped.packed
    return address.packed


def unpack_ip(packed: bytes) -> str:
    """Text of a packed address; empty when nothing was bound."""
    return str(ipaddress.ip_address(packed)) if packed else ""


def _keyed(key: bytes, label: bytes, value: str) -> bytes:
    return hmac.digest(key, label + b"\0" + value.encode("utf-8", "surrogatepass"), "sha256")


def bind(context: RequestContext, key: bytes) -> Binding:
    """Turn the context of a login into what later requests are compared with; `key` is 32 random bytes."""
    return Binding(
        client_ip=pack_ip(context.client_ip) or b"",
        key=key,
        device_fingerprint=_keyed(key, b"device", context.device_fingerprint) if context.device_fingerprint else b"",
        user_agent=_keyed(key, b"agent", context.user_agent) if context.user_agent else b"",
    )


def satisfiable_modes(binding: Binding) -> tuple[ValidationMode, ...]:
    """List the modes for which everything needed was bound at login."""
    modes: list[ValidationMode] = []
    for mode, part in (
        (ValidationMode.STANDARD, binding.client_ip),
        (ValidationMode.ADVANCED, binding.device_fingerprint),
        (ValidationMode.STRICT, binding.user_agent),
    ):
        if not part:
            break
        modes.append(mode)
    return tuple(modes)


def _in_same_network(first: bytes, second: bytes, prefixes: IpPrefixes) -> bool:
    """Whether two packed addresses share their leading bits. An IPv4 and an IPv6 address never do."""
    if first == second:
        return True
    bits = 8 * len(first)
    if len(first) != len(second) or not prefixes.are_valid:
        return False
    ignored = bits - (prefixes.v4 if bits == 32 else prefixes.v6)
    return int.from_bytes(first, "big") >> ignored == int.from_bytes(second, "big") >> ignored


def check(
    mode: ValidationMode, binding: Binding, context: RequestContext, prefixes: IpPrefixes = DEFAULT_PREFIXES
) -> DenialReason | None:
    """Compare a request's context with the session's binding, as far as the mode asks; `None` lets it pass."""
    if not context.client_ip:
        return DenialReason.CONTEXT_MISSING
    if not binding.client_ip:
        return DenialReason.CONTEXT_NOT_BOUND
    sent = pack_ip(context.client_ip)
    if sent is None or not _in_same_network(sent, binding.client_ip, prefixes):
        return DenialReason.IP_MISMATCH
    if mode >= ValidationMode.ADVANCED:
        reason = _check_keyed(
            binding.key,
            b"device",
            binding.device_fingerprint,
            context.device_fingerprint,
            DenialReason.DEVICE_MISMATCH,
        )
        if reason is not None:
            return reason
    if mode >= ValidationMode.STRICT:
        return _check_keyed(
            binding.key, b"agent", binding.user_agent, context.user_agent, DenialReason.USER_AGENT_MISMATCH
        )
    return None


def _check_keyed(key: bytes, label: bytes, bound: bytes, given: str, mismatch: DenialReason) -> DenialReason | None:
    if not given:
        return DenialReason.CONTEXT_MISSING
    if not bound:
        return DenialReason.CONTEXT_NOT_BOUND
    return None if hmac.compare_digest(_keyed(key, label, given), bound) else mismatch
