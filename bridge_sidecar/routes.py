"""Which rule covers a request, and what does that rule ask for? Pure: no I/O, no clock, no transport.

Rules stand in an order and the first that matches wins. What no rule covers is denied, so a route that was forgotten
is closed and not open. A caller may ask for more than its rule, never for less.

A path is matched in the one form in which every server reads it the same way. One that could be read in two ways (a
dot segment, an empty segment, an escaped slash, an escape within an escape) matches no rule: a proxy and the app
behind it need not agree about it, and who finds such a pair walks around the rule.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import unquote_to_bytes

from trust_core.modes import DEFAULT_PREFIXES, DenialReason, IpPrefixes, ValidationMode

MAX_PATH_BYTES: Final = 8_192
ANY_METHOD: Final = "*"
_GRPC: Final = "grpc"
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}", re.ASCII)
_GRPC_NAME = re.compile(
    r"(?:[A-Za-z_][A-Za-z0-9_]*\.)*[A-Za-z_][A-Za-z0-9_]*/(?:[A-Za-z_][A-Za-z0-9_]*|\*)", re.ASCII
)
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}", re.ASCII)
# Escaped: slash, backslash, percent sign, NUL, question mark, number sign.
# Plain: what some servers take for a slash or for the path's end.
_TWO_READINGS = re.compile(r"%(?:2[fF]|5[cC]|25|00|3[fF]|23)|[\\;#\x00-\x20\x7f]", re.ASCII)


class SessionNeed(StrEnum):
    """Whether a request needs an active session to pass."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    """Passes without one as well, but whoever sends one is told apart, and "cannot know" is an error."""
    NONE = "none"


class OnMismatch(StrEnum):
    """What follows when the request context is not the one bound at login."""

    DENY = "deny"
    REVOKE = "revoke"
    """And the session is revoked for everybody: it may have been stolen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `patterns` as the operator wrote them; a rule without any is found by its name only.

    `mode` `None`: the sidecar's default. `max_authentication_age_ns` `None`: however long ago.
    `serve_beyond_lease_ns`: for how long after the lease ran out it may be served from the cache; 0: not at all.
    """

    name: str
    patterns: tuple[str, ...] = ()
    session: SessionNeed = SessionNeed.REQUIRED
    mode: ValidationMode | None = None
    ip_prefixes: IpPrefixes = DEFAULT_PREFIXES
    roles_any: frozenset[str] = frozenset()
    roles_all: frozenset[str] = frozenset()
    max_authentication_age_ns: int | None = None
    on_mismatch: OnMismatch = OnMismatch.DENY
    serve_beyond_lease_ns: int = 0

    def refusal(self, *, roles: frozenset[str], authentication_age_ns: int) -> DenialReason | None:
        """Say why an active session does not satisfy this rule; `None` lets it pass."""
        if not self.roles_all <= roles or (self.roles_any and not self.roles_any & roles):
            return DenialReason.ROLE_MISSING
        most = self.max_authentication_age_ns
        if most is not None and authentication_age_ns > most:
            return DenialReason.AUTHENTICATION_TOO_OLD
        return None


class PatternError(ValueError):
    """A pattern that cannot be used; the text says what one looks like."""


_PATTERN_HELP: Final = (
    "must be `METHOD /path`, `* /path` for any method, or `grpc package.Service/Method`; in a path `*` is one "
    "segment and `/**` at the end everything below"
)


def compile_pattern(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """Turn a pattern into an expression over `METHOD path`. Raises `PatternError`.

    `GET` covers HEAD, which servers answer with the same handler. A slash at the end of the path makes no
    difference. The expressions hold no nested repetition: their time is linear in the path.
    """
    method, _, path = pattern.partition(" ")
    if method == _GRPC:
        if not _GRPC_NAME.fullmatch(path):
            raise PatternError(_PATTERN_HELP)
        method, path = "POST", f"/{path}"
    elif method != ANY_METHOD and not _METHOD.fullmatch(method):
        raise PatternError(_PATTERN_HELP)
    methods = {ANY_METHOD: "[^ ]+", "GET": "(?:GET|HEAD)"}.get(method, re.escape(method))
    is_open = path.endswith("/**")
    stem = path.removesuffix("/**") if is_open else path.removesuffix("/")
    parts = stem.split("/")
    is_clear = not stem or (normal_path(stem) == stem and not stem.endswith("/"))
    if not path.startswith("/") or not is_clear or any("*" in part and part != "*" for part in parts):
        raise PatternError(_PATTERN_HELP)
    segments = "/".join("[^/]+" if part == "*" else re.escape(part) for part in parts)
    return re.compile(f"{methods} {segments}{'(?:/.*)?' if is_open else '/?'}", re.DOTALL | flags)


def normal_path(path: str) -> str | None:
    """Bring the path of a request into the form in which rules are matched; `None` if it has more than one reading.

    Takes the path with or without its query. Escapes are resolved once, as servers do.
    """
    path = path.partition("?")[0]
    if not path.startswith("/") or len(path) > MAX_PATH_BYTES or _TWO_READINGS.search(path):
        return None
    if path.count("%") != len(_ESCAPE.findall(path)):
        return None
    try:
        plain = unquote_to_bytes(path.encode("utf-8")).decode("utf-8")
    except UnicodeError:
        return None
    segments = plain.split("/")[1:]
    # Only the last segment may be empty: a slash at the end.
    if any(part in ("", ".", "..") for part in segments[:-1]) or segments[-1] in (".", ".."):
        return None
    # Some servers trim segments before they look for a handler.
    if any(part != part.strip() for part in segments):
        return None
    return None if _TWO_READINGS.search(plain.replace(" ", "")) else plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The rule that covers a request, and the pattern of it that matched."""

    rule: Rule
    pattern: str


class RouteTable:
    """Rules in their order. Immutable: a reload puts another table in its place, between two requests."""

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        *,
        ip_prefixes: IpPrefixes = DEFAULT_PREFIXES,
        default_mode: ValidationMode = ValidationMode.STANDARD,
    ) -> None:
        """Compile the rules. `ip_prefixes`: for questions that name no route. Raises `PatternError`."""
        self.rules = tuple(rules)
        self.default_mode = default_mode
        self.unnamed = Rule(name="", ip_prefixes=ip_prefixes)
        self._by_name = {rule.name: rule for rule in self.rules}
        self._patterns = [
            (compile_pattern(pattern, re.IGNORECASE), compile_pattern(pattern), pattern, rule)
            for rule in self.rules
            for pattern in rule.patterns
        ]

    def by_name(self, name: str) -> Rule | None:
        """Find a rule by its name."""
        return self._by_name.get(name)

    def by_request(self, method: str, path: str) -> Match | None:
        """Find the first rule that covers a request; `None`: nobody may make it.

        Servers differ about letters' case. A path that only by its case escapes a rule is covered by no later one:
        the app may take `/ADMIN` for `/admin`.
        """
        plain = normal_path(path)
        if plain is None or not _METHOD.fullmatch(method):
            return None
        line = f"{method} {plain}"
        for in_any_case, exact, pattern, rule in self._patterns:
            if in_any_case.fullmatch(line):
                return Match(rule=rule, pattern=pattern) if exact.fullmatch(line) else None
        return None

    @property
    def longest_beyond_lease_ns(self) -> int:
        """The longest time for which any rule may be served after the lease ran out."""
        return max((rule.serve_beyond_lease_ns for rule in self.rules), default=0)

    def mode_of(self, rule: Rule, asked: ValidationMode | None) -> ValidationMode:
        """Say which mode holds: the rule's, or a stricter one that the caller asked for."""
        if not rule.name:
            return asked or self.default_mode
        return max(rule.mode or self.default_mode, asked or ValidationMode.STANDARD)


class Routes:
    """The table in effect. Touched by the event loop only; `problems` says why the newest file is not in effect."""

    def __init__(self, table: RouteTable) -> None:
        self.table = table
        self.problems: tuple[str, ...] = ()
