"""Whose request is it, by address? Read from a proxy's header, and only as far as trusted proxies vouch for it. Pure.

Every proxy adds, at the right end, the address from which the request reached it. So the list is read from the right:
the address that reached us says whether the last element may be believed, that element whether the one before it may,
and so on up to the first address that is not a trusted proxy: the client. Whatever stands left of it the client wrote
itself, and it is not looked at.

What cannot be read where the client's address should stand is no client IP, never a guess: neither the element before
it, which the client may have written, nor the proxy's address, which would be the same for everybody. For the same
reason a trusted proxy is never a client.

One header is believed, the one that the operator named. A proxy that keeps `X-Forwarded-For` passes a client's
`Forwarded` (RFC 7239) on as it came, and the other way round, so a choice by what is present would be the client's.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Final

from trust_core.modes import pack_ip, unpack_ip

X_FORWARDED_FOR: Final = "x-forwarded-for"
FORWARDED: Final = "forwarded"

MAX_ELEMENTS: Final = 32
"""Looked at, from the right; beyond them there is no client IP."""
_MAX_ELEMENT_CHARS: Final = 512
_BLANK: Final = " \t"
_PORT: Final = r"(?::[0-9]{1,5})?"
_V4: Final = re.compile(rf"([0-9.]{{7,15}}){_PORT}", re.ASCII)
_V6_BRACKETED: Final = re.compile(rf"\[([0-9A-Fa-f:.]{{2,45}})\]{_PORT}", re.ASCII)
_V6_BARE: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}", re.ASCII)
_PAIR: Final = re.compile(
    r'[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^";,\s]*)[ \t]*(?:;|$)', re.ASCII
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def trusted_network(text: str) -> Network:
    """Read an address or a network of a trusted proxy. Raises ValueError.

    A network of everything would make every client a proxy and is refused. So is one with bits behind its prefix,
    which is a typing error more often than not.
    """
    network = ipaddress.ip_network(text, strict=True)
    if network.prefixlen == 0:
        raise ValueError("all addresses cannot be trusted")
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("write an IPv4-mapped network as IPv4")
    return network


class ClientIp:
    """Finds the client IP of requests. Immutable."""

    def __init__(self, *, header: str, trusted: Sequence[Network]) -> None:
        """`header`: `x-forwarded-for` or `forwarded`, the one that the trusted proxies keep."""
        self.header = header
        self._addresses = _addresses_of_forwarded if header == FORWARDED else _addresses_of_x_forwarded_for
        self._trusted = tuple((net.version, int(net.network_address), int(net.netmask)) for net in trusted)

    def find(self, *, peer: str | None, lines: Sequence[str]) -> str:
        """Return the client IP in its normal form; empty when there is none.

        `peer`: the address from which the request reached whoever asks; `None` when it is a proxy of ours that asks,
        so that its last element is believed. `lines`: the header's lines, in their order.
        """
        current = b""
        if peer is not None:
            packed = pack_ip(peer)
            if packed is None:
                return ""
            if not self._is_trusted(packed):
                return unpack_ip(packed)
        for looked_at, text in enumerate(self._addresses(lines)):
            packed = _read_address(text) if looked_at < MAX_ELEMENTS else None
            if packed is None:
                return ""
            current = packed
            if not self._is_trusted(current):
                return unpack_ip(current)
        return ""

    def _is_trusted(self, packed: bytes) -> bool:
        version, number = (4 if len(packed) == 4 else 6), int.from_bytes(packed, "big")
        return any(version == of and number & mask == network for of, network, mask in self._trusted)


def _read_address(text: str) -> bytes | None:
    """Read `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`; `None` for all else."""
    found = _V4.fullmatch(text) or _V6_BRACKETED.fullmatch(text)
    if found is not None:
        return pack_ip(found[1])
    return pack_ip(text) if _V6_BARE.fullmatch(text) else None


def _addresses_of_x_forwarded_for(lines: Sequence[str]) -> Iterator[str]:
    """Yield the elements from the right."""
    for line in reversed(lines):
        rest: str | None = line
        while rest is not None:
            before, comma, element = rest.rpartition(",")
            rest = before if comma else None
            yield _unquoted(element.strip(_BLANK))


def _addresses_of_forwarded(lines: Sequence[str]) -> Iterator[str]:
    """Yield what `for` says in the elements from the right; an empty text where it says nothing readable."""
    for line in reversed(lines):
        end = len(line)
        while end >= 0:
            start = _start_of_last_element(line, end)
            yield _node_of(line[start:end])
            end = start - 1


def _start_of_last_element(line: str, end: int) -> int:
    """Find where the last element of `line[:end]` begins: behind the last comma that is in no quoted text.

    Read from the right: from the left, a quote that a client opened and did not close would swallow what the proxy
    wrote behind it.
    """
    quoted = False
    for position in range(end - 1, max(-1, end - 1 - _MAX_ELEMENT_CHARS), -1):
        char = line[position]
        if char == '"' and not _is_escaped(line, position):
            quoted = not quoted
        elif char == "," and not quoted:
            return position + 1
    return 0


def _is_escaped(line: str, position: int) -> bool:
    """Whether an odd number of backslashes stands before the character."""
    first = position
    while first > 0 and line[first - 1] == "\\":
        first -= 1
    return (position - first) % 2 == 1


def _node_of(element: str) -> str:
    if len(element) > _MAX_ELEMENT_CHARS:
        return ""
    nodes: list[str] = []
    position = 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None:
            return ""
        if pair[1].lower() == "for":
            nodes.append(_unquoted(pair[2]))
        position = pair.end()
    return nodes[0] if len(nodes) == 1 else ""


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
