"""The command that asks the rules of a file about a request: which one wins, and why."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from bridge_sidecar.cli import Exit
from bridge_sidecar.config import ConfigError, SidecarConfig, load_file
from bridge_sidecar.routes import RouteTable, Rule, SessionNeed, compile_pattern, normal_path
from trust_core.clock import NS_PER_SECOND

_TWO_READINGS = (
    "the path has more than one reading (a dot segment, an empty segment, an escaped slash, percent sign, `?` "
    "or `#`, `#`, `;` or `\\`, a space at the edge of a segment), so no rule covers it"
)


def run(arguments: argparse.Namespace) -> Exit:
    """Print the rule that covers a request. Exit code 1 when none does."""
    file: Path | None = arguments.config
    if file is None:
        print("bridge-sidecar: routes test needs --config FILE or BRIDGE_SIDECAR_CONFIG", file=sys.stderr)
        return Exit.USAGE
    try:
        config = load_file(file)
    except ConfigError as error:
        if arguments.json:
            print(json.dumps({"problems": error.problems}))
        else:
            print(f"bridge-sidecar: {error}", file=sys.stderr)
        return Exit.CONFIG
    method, path = arguments.method, arguments.path
    if method == "grpc":
        method, path = "POST", f"/{path.removeprefix('/')}"
    return _answer(config, method, path, as_json=arguments.json)


def _answer(config: SidecarConfig, method: str, path: str, *, as_json: bool) -> Exit:
    table = config.route_table
    match = table.by_request(method, path)
    steps = _steps(table, method, path)
    if as_json:
        print(
            json.dumps(
                {
                    "method": method,
                    "path": normal_path(path),
                    "rule": None if match is None else {**_asks(match.rule, config), "pattern": match.pattern},
                    "tried": [{"rule": rule, "pattern": pattern, "matches": fits} for rule, pattern, fits in steps],
                }
            )
        )
        return Exit.DENIED if match is None else Exit.OK
    print(f"{method} {normal_path(path) or path}")
    if normal_path(path) is None:
        print(f"  {_TWO_READINGS}")
    width = max((len(rule) for rule, _, _ in steps), default=0)
    for rule, pattern, fits in steps:
        print(f"  {rule:{width}}  {'matches, and wins' if fits else 'does not match'}: {pattern}")
    if match is None:
        escaped = _escapes_by_case(table, method, path)
        if escaped:
            print(f"  letters' case is all that keeps it from being covered by: {escaped}")
        print("DENIED  ROUTE_NOT_COVERED: no rule covers this request")
        return Exit.DENIED
    for key, value in _asks(match.rule, config).items():
        shown = ", ".join(value) if isinstance(value, list) else value
        print(f"{key:30}  {shown}")
    return Exit.OK


def _escapes_by_case(table: RouteTable, method: str, path: str) -> str:
    """Name the first pattern that would cover the request in another case of its letters."""
    line = f"{method} {normal_path(path)}"
    for rule in table.rules:
        for pattern in rule.patterns:
            if compile_pattern(pattern, re.IGNORECASE).fullmatch(line):
                return pattern
    return ""


def _steps(table: RouteTable, method: str, path: str) -> list[tuple[str, str, bool]]:
    """List the patterns that were tried, in their order, up to the one that wins."""
    plain = normal_path(path)
    steps: list[tuple[str, str, bool]] = []
    if plain is None:
        return steps
    winner = table.by_request(method, path)
    for rule in table.rules:
        for pattern in rule.patterns:
            fits = (
                winner is not None
                and winner.rule is rule
                and bool(compile_pattern(pattern).fullmatch(f"{method} {plain}"))
            )
            steps.append((rule.name, pattern, fits))
            if fits:
                return steps
    return steps


def _asks(rule: Rule, config: SidecarConfig) -> dict[str, Any]:
    """Say what a rule asks for, in the words of the file."""
    asks: dict[str, Any] = {"name": rule.name, "session": rule.session.value}
    if rule.session is SessionNeed.NONE:
        return asks
    asks["mode"] = config.route_table.mode_of(rule, None).name.lower()
    asks["mode_from"] = "default_mode" if rule.mode is None else "the rule"
    asks["ip_prefix_v4"], asks["ip_prefix_v6"] = rule.ip_prefixes.v4, rule.ip_prefixes.v6
    if rule.roles_any:
        asks["roles_any"] = sorted(rule.roles_any)
    if rule.roles_all:
        asks["roles_all"] = sorted(rule.roles_all)
    if rule.max_authentication_age_ns is not None:
        asks["max_authentication_age_seconds"] = rule.max_authentication_age_ns / NS_PER_SECOND
    asks["on_mismatch"] = rule.on_mismatch.value
    asks["serve_beyond_lease_seconds"] = rule.serve_beyond_lease_ns / NS_PER_SECOND
    return asks
