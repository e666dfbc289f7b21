"""Rules out of a configuration file: each problem with its line, and no value in any text.

TOML's parser does not say where a value stood. The line is found afterwards, and only for a problem, by looking for
what begins a rule and a value. That is one pass for each problem, whatever the file holds: the event loop waits.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final

from bridge_sidecar.routes import OnMismatch, PatternError, Rule, SessionNeed, compile_pattern
from trust_core.clock import NS_PER_SECOND
from trust_core.modes import IpPrefixes, ValidationMode

MAX_RULES: Final = 256
MAX_BEYOND_LEASE_SECONDS: Final = 300
_MAX_PATTERNS: Final = 32
_MAX_PATTERNS_IN_ALL: Final = 1_024
_MAX_NAME_BYTES: Final = 128
_MAX_ROLES: Final = 64
_MAX_AGE_SECONDS: Final = 31 * 24 * 3600
_MAX_PROBLEMS: Final = 50
_MODES: Final = {mode.name.lower(): mode for mode in ValidationMode}
_TOML_POSITION = re.compile(r"\(at line (\d+), column (\d+)\)")
_HEADER: Final = re.compile(r"\s*\[\[\s*[\"']?routes[\"']?\s*\]\]")
_INLINE: Final = re.compile(r"\s*[\"']?routes[\"']?\s*=")
_KEYS: Final = (
    "name", "match", "session", "mode", "roles_any", "roles_all", "max_authentication_age_seconds", "on_mismatch",
    "serve_beyond_lease_seconds", "ip_prefix_v4", "ip_prefix_v6",
)  # fmt: skip


class _NotAcceptableError(Exception):
    """A value that cannot be used; the text says what could be."""


def parse_toml(text: str) -> dict[str, Any]:
    """Read TOML. Raises ValueError with a text that says where, and does not quote the file."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The error's own text may quote the file, and the file may hold anything.
        position = _TOML_POSITION.search(str(error))
        where = f"line {position[1]}, column {position[2]}" if position else "at its end"
        raise ValueError(f"not TOML, {where}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def rules_of(value: object, text: str, *, ip_prefixes: IpPrefixes, problems: list[str]) -> tuple[Rule, ...]:
    """Read the value of `routes`, which stood in the TOML file `text`; adds to `problems` what is wrong.

    `ip_prefixes`: of rules that say nothing about them.
    """
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        problems.append("routes: must be written as [[routes]], one for each rule")
        return ()
    if len(value) > MAX_RULES:
        problems.append(f"routes: must be at most {MAX_RULES} rules")
        return ()
    patterns = sum(len(entry["match"]) for entry in value if isinstance(entry.get("match"), list))
    if patterns > _MAX_PATTERNS_IN_ALL:
        problems.append(f"routes: must hold at most {_MAX_PATTERNS_IN_ALL} patterns in all; each is tried in turn")
        return ()
    reader = _Reader(value, text, ip_prefixes)
    rules = tuple(reader.rule(index) for index in range(len(value)))
    if not reader.problems:
        reader.compare(rules)
    problems += reader.problems[:_MAX_PROBLEMS]
    return rules


class _Reader:
    """Reads the rules of one file."""

    def __init__(self, entries: list[dict[str, Any]], text: str, ip_prefixes: IpPrefixes) -> None:
        self._entries = entries
        self._ip_prefixes = ip_prefixes
        self._lines = text.split("\n")
        self._headers = [n for n, line in enumerate(self._lines, 1) if _HEADER.match(line)]
        self.problems: list[str] = []

    def rule(self, index: int) -> Rule:
        """Read one rule; where it has problems, they are noted and what is returned means nothing."""
        entry = self._entries[index]
        for key in entry:
            if key not in _KEYS:
                self._note(index, key, f"no such setting; known are {', '.join(_KEYS)}", spoken="a setting")
        if "name" not in entry:
            self._note(index, "name", "missing")

        def take(key: str, read: Callable[[object], Any], default: Any) -> Any:
            if key not in entry:
                return default
            try:
                return read(entry[key])
            except _NotAcceptableError as problem:
                self._note(index, key, str(problem))
                return default

        rule = Rule(
            name=take("name", _name, ""),
            patterns=take("match", _patterns, ()),
            session=take("session", _choice({need.value: need for need in SessionNeed}), SessionNeed.REQUIRED),
            mode=take("mode", _choice(_MODES), None),
            ip_prefixes=_take_prefixes(take, self._ip_prefixes),
            roles_any=take("roles_any", _roles, frozenset()),
            roles_all=take("roles_all", _roles, frozenset()),
            max_authentication_age_ns=take("max_authentication_age_seconds", _seconds(_MAX_AGE_SECONDS), None),
            on_mismatch=take("on_mismatch", _choice({what.value: what for what in OnMismatch}), OnMismatch.DENY),
            serve_beyond_lease_ns=take("serve_beyond_lease_seconds", _seconds(MAX_BEYOND_LEASE_SECONDS), 0),
        )
        for key, text in _contradictions(rule):
            self._note(index, key, text)
        return rule

    def compare(self, rules: tuple[Rule, ...]) -> None:
        """Note names and patterns that stand in two rules: the second could never be meant."""
        seen_names: set[str] = set()
        seen_patterns: set[str] = set()
        for index, rule in enumerate(rules):
            if rule.name in seen_names:
                self._note(index, "name", "another rule has it already")
            if seen_patterns.intersection(rule.patterns):
                self._note(index, "match", "a pattern stands in an earlier rule already, which wins")
            seen_names.add(rule.name)
            seen_patterns.update(rule.patterns)

    def _note(self, index: int, key: str, text: str, *, spoken: str = "") -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            line = self._line_of(index, key)
            where = f"line {line}: " if line else ""
            # A key that is not one of ours may be anything, a secret included.
            self.problems.append(f"{where}routes[{index}].{spoken or key}: {text}")

    def _line_of(self, index: int, key: str) -> int:
        """Find the line of a key of a rule, or else of the rule; 0 when the file is written in another way."""
        if len(self._headers) != len(self._entries):
            return next((n for n, line in enumerate(self._lines, 1) if _INLINE.match(line)), 0)
        start = self._headers[index]
        end = [*self._headers, len(self._lines) + 1][index + 1]
        wanted = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]")
        return next((n for n in range(start, end) if wanted.match(self._lines[n - 1])), start)


def _take_prefixes(take: Callable[[str, Callable[[object], Any], Any], Any], default: IpPrefixes) -> IpPrefixes:
    return IpPrefixes(
        v4=take("ip_prefix_v4", _bits(32), default.v4),
        v6=take("ip_prefix_v6", _bits(128), default.v6),
    )


def _name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= _MAX_NAME_BYTES:
        raise _NotAcceptableError(f"must be a text of 1 to {_MAX_NAME_BYTES} bytes")
    return value


def _texts(value: object, most: int, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= most or not all(isinstance(v, str) for v in value):
        raise _NotAcceptableError(f"must be a list of 1 to {most} {what}")
    return tuple(value)


def _patterns(value: object) -> tuple[str, ...]:
    patterns = _texts(value, _MAX_PATTERNS, 'patterns, like "GET /orders/*"')
    for number, pattern in enumerate(patterns):
        try:
            compile_pattern(pattern)
        except PatternError as error:
            raise _NotAcceptableError(f"pattern {number}: {error}") from None
    return patterns


def _roles(value: object) -> frozenset[str]:
    roles = _texts(value, _MAX_ROLES, "names of roles")
    if not all(roles):
        raise _NotAcceptableError("must hold no empty name")
    return frozenset(roles)


def _choice(choices: Mapping[str, Any]) -> Callable[[object], Any]:
    def read(value: object) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise _NotAcceptableError(f"must be one of {', '.join(choices)}")
        return choices[value]

    return read


def _seconds(most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise _NotAcceptableError(f"must be more than 0 and at most {most} seconds")
        return round(value * NS_PER_SECOND)

    return read


def _bits(most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if type(value) is not int or not 1 <= value <= most:
            raise _NotAcceptableError(f"must be a whole number from 1 to {most}")
        return value

    return read


def _contradictions(rule: Rule) -> list[tuple[str, str]]:
    """List what a rule asks for and cannot have, by key."""
    found = []
    asks = rule.roles_any or rule.roles_all or rule.max_authentication_age_ns is not None
    if rule.session is not SessionNeed.REQUIRED and asks:
        found.append(("session", "roles and the age of the proof are of a session, which has to be required then"))
    if rule.session is SessionNeed.NONE and (rule.mode is not None or rule.on_mismatch is OnMismatch.REVOKE):
        found.append(("session", "nothing is compared where no session is looked at; leave out mode and on_mismatch"))
    if rule.serve_beyond_lease_ns and (asks or rule.mode not in (None, ValidationMode.STANDARD)):
        found.append(
            (
                "serve_beyond_lease_seconds",
                "answers after the lease are for standard mode, without roles and age of the proof: they may be old",
            )
        )
    return found
