"""Which rule covers a request, and what does it ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_sidecar.routes import (
    MAX_PATH_BYTES,
    Match,
    OnMismatch,
    PatternError,
    RouteTable,
    Rule,
    SessionNeed,
    compile_pattern,
    normal_path,
)
from trust_core.clock import NS_PER_SECOND
from trust_core.modes import DenialReason, ValidationMode

STANDARD, ADVANCED, STRICT = ValidationMode


def _wins(table: RouteTable, method: str, path: str) -> str | None:
    match = table.by_request(method, path)
    return None if match is None else match.rule.name


def _covers(pattern: str, method: str, path: str) -> bool:
    return _wins(RouteTable([Rule(name="r", patterns=(pattern,))]), method, path) == "r"


@pytest.mark.parametrize(
    ("pattern", "method", "path"),
    [
        ("GET /orders", "GET", "/orders"),
        ("GET /orders", "GET", "/orders/"),
        ("GET /orders/", "GET", "/orders"),
        ("GET /orders", "HEAD", "/orders"),
        ("GET /orders", "GET", "/orders?page=2"),
        ("GET /orders", "GET", "/%6Frders"),
        ("* /orders", "PROPFIND", "/orders"),
        ("GET /orders/*", "GET", "/orders/7"),
        ("GET /orders/*", "GET", "/orders/a%20b"),
        ("GET /orders/*/lines", "GET", "/orders/7/lines"),
        ("GET /*/*", "GET", "/a/b"),
        ("* /admin/**", "GET", "/admin"),
        ("* /admin/**", "GET", "/admin/"),
        ("* /admin/**", "DELETE", "/admin/a/b/c"),
        ("* /**", "GET", "/"),
        ("* /**", "GET", "/a/b"),
        ("GET /", "GET", "/"),
        ("GET /größe", "GET", "/gr%C3%B6%C3%9Fe"),
        ("GET /a.b+c", "GET", "/a.b+c"),
        ("grpc shop.v1.Orders/Cancel", "POST", "/shop.v1.Orders/Cancel"),
        ("grpc shop.v1.Orders/*", "POST", "/shop.v1.Orders/List"),
    ],
)
def test_a_pattern_covers(pattern: str, method: str, path: str) -> None:
    assert _covers(pattern, method, path)


@pytest.mark.parametrize(
    ("pattern", "method", "path"),
    [
        ("GET /orders", "POST", "/orders"),
        ("GET /orders", "get", "/orders"),
        ("HEAD /orders", "GET", "/orders"),
        ("GET /orders", "GET", "/orders/7"),
        ("GET /orders", "GET", "/Orders"),
        ("GET /orders", "GET", "orders"),
        ("GET /orders", "GET", ""),
        ("GET /orders/*", "GET", "/orders"),
        ("GET /orders/*", "GET", "/orders/7/lines"),
        ("* /admin/**", "GET", "/administrator"),
        ("GET /a.b", "GET", "/aXb"),
        ("grpc shop.v1.Orders/Cancel", "GET", "/shop.v1.Orders/Cancel"),
        ("grpc shop.v1.Orders/*", "POST", "/shop.v1.OrdersX/List"),
        ("* /**", "GET POST", "/"),
        ("* /**", "", "/"),
        ("* /**", "GET\n", "/"),
    ],
)
def test_a_pattern_does_not_cover(pattern: str, method: str, path: str) -> None:
    assert not _covers(pattern, method, path)


TWO_READINGS = [
    "//admin", "/a//b", "/./admin", "/a/../admin", "/a/..", "/a/.", "/%2e%2e/admin", "/a/%2E./b", "/a%2fb", "/a%2Fb",
    "/a%5cb", "/a\\b", "/a%252fb", "/%2561dmin", "/a%00", "/a\0b", "/a;b", "/a/..;/admin", "/a%3Bb", "/a%",
    "/a%4", "/a%zz", "/a\tb", "/a\nb", "/a b", "/a%0ab", "/a%7f", "/%ff", "/\udc80", "http://host/admin", "*",
    "?/admin", "/a\x7f", "/a#/../admin", "/a#", "/admin%3F", "/admin%3fx", "/admin%23x", "/admin%20", "/%20admin/x",
    "/admin%C2%A0",
]  # fmt: skip


@pytest.mark.parametrize("path", TWO_READINGS)
def test_a_path_that_could_be_read_in_two_ways_is_covered_by_no_rule(path: str) -> None:
    assert normal_path(path) is None
    assert not _covers("* /**", "GET", path)


def test_a_path_over_the_limit_is_covered_by_no_rule() -> None:
    assert _covers("* /**", "GET", "/" + "a" * (MAX_PATH_BYTES - 1))
    assert not _covers("* /**", "GET", "/" + "a" * MAX_PATH_BYTES)


@given(
    st.text()
    | st.lists(st.sampled_from(["/", ".", "..", "%2e", "%2f", "%25", "a", ";", "\\", "?", "%"])).map("".join)
)
def test_what_is_matched_has_no_second_reading(path: str) -> None:
    plain = normal_path(path)
    if plain is None:
        return
    segments = plain.split("/")
    assert plain.startswith("/")
    assert not {".", ".."} & set(segments)
    assert "" not in segments[1:-1]
    assert not set("\\;\0") & set(plain)
    assert "%" not in plain


@pytest.mark.parametrize(
    "pattern",
    [
        "", "/orders", "GET", "GET ", "GET orders", "get /orders", "G=T /orders", "GET /a//b", "GET /a/../b",
        "GET /a/**/b", "GET /a*", "GET /*a", "GET /a%2fb", "GET /%61", "GET /a;b", "GET /a?b=c", "GET /a b",
        "GET  /a", "grpc", "grpc Orders", "grpc /shop.Orders/List", "grpc shop.Orders/List/X",
        "grpc shop-v1.Orders/List", "grpc *", "GET /***", "GET /**/", "GET /a//", "* /a//**",
    ],
)  # fmt: skip
def test_a_pattern_that_could_mean_something_else_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="must be `METHOD /path`"):
        compile_pattern(pattern)


@pytest.mark.parametrize("path", ["/ADMIN", "/Admin/users", "/%41dmin", "/adm\u0131n", "/GRÖßE", "/grÖße/x"])
def test_a_path_that_escapes_a_rule_by_its_case_is_covered_by_no_later_one(path: str) -> None:
    table = RouteTable(
        [
            Rule(name="admin", patterns=("* /admin/**", "* /größe/**"), mode=STRICT),
            Rule(name="rest", patterns=("* /**",)),
        ]
    )
    assert _wins(table, "GET", path) is None
    assert _wins(table, "GET", "/admin") == "admin"
    assert _wins(table, "GET", "/ADMINS") == "rest"


def test_the_first_rule_that_covers_a_request_wins() -> None:
    table = RouteTable(
        [
            Rule(name="health", patterns=("GET /admin/health",), session=SessionNeed.NONE),
            Rule(name="admin", patterns=("* /admin/**",), mode=STRICT),
            Rule(name="rest", patterns=("GET /public", "* /**")),
        ]
    )
    assert _wins(table, "GET", "/admin/health") == "health"
    assert _wins(table, "POST", "/admin/health") == "admin"
    assert _wins(table, "GET", "/admin/x") == "admin"
    assert _wins(table, "GET", "/%61dmin/x") == "admin"
    assert table.by_request("GET", "/x") == Match(rule=table.rules[2], pattern="* /**")
    assert table.by_name("admin") is table.rules[1]
    assert table.by_name("") is None


def test_without_rules_no_request_is_covered() -> None:
    assert RouteTable().by_request("GET", "/") is None
    assert RouteTable().longest_beyond_lease_ns == 0


@pytest.mark.parametrize("of_rule", [None, *ValidationMode])
@pytest.mark.parametrize("asked", [None, *ValidationMode])
@pytest.mark.parametrize("default", ValidationMode)
def test_a_caller_may_ask_for_a_stricter_mode_than_the_rule_and_never_gets_a_weaker_one(
    of_rule: ValidationMode | None, asked: ValidationMode | None, default: ValidationMode
) -> None:
    mode = RouteTable(default_mode=default).mode_of(Rule(name="r", mode=of_rule), asked)
    floor = of_rule or default
    assert mode >= floor
    assert mode == max(floor, asked or floor)


@pytest.mark.parametrize("asked", ValidationMode)
def test_without_a_rule_the_callers_mode_holds(asked: ValidationMode) -> None:
    table = RouteTable(default_mode=ADVANCED)
    assert table.mode_of(table.unnamed, asked) is asked
    assert table.mode_of(table.unnamed, None) is ADVANCED


@pytest.mark.parametrize(
    ("rule", "roles", "passes"),
    [
        (Rule(name="r"), [], True),
        (Rule(name="r", roles_any=frozenset("ab")), ["a"], True),
        (Rule(name="r", roles_any=frozenset("ab")), ["c", "b"], True),
        (Rule(name="r", roles_any=frozenset("ab")), ["c"], False),
        (Rule(name="r", roles_any=frozenset("ab")), [], False),
        (Rule(name="r", roles_all=frozenset("ab")), ["a", "b", "c"], True),
        (Rule(name="r", roles_all=frozenset("ab")), ["a"], False),
        (Rule(name="r", roles_all=frozenset("a"), roles_any=frozenset("bc")), ["a", "c"], True),
        (Rule(name="r", roles_all=frozenset("a"), roles_any=frozenset("bc")), ["b", "c"], False),
        (Rule(name="r", roles_all=frozenset("a"), roles_any=frozenset("bc")), ["a"], False),
        (Rule(name="r", roles_any=frozenset(["admin"])), ["Admin", "admin "], False),
    ],
)
def test_a_rule_asks_for_roles(rule: Rule, roles: list[str], passes: bool) -> None:
    refusal = rule.refusal(roles=frozenset(roles), authentication_age_ns=10**18)
    assert refusal is (None if passes else DenialReason.ROLE_MISSING)


def test_a_rule_asks_for_a_proof_that_is_not_too_old() -> None:
    rule = Rule(name="r", max_authentication_age_ns=60 * NS_PER_SECOND)
    nobody: frozenset[str] = frozenset()
    assert rule.refusal(roles=nobody, authentication_age_ns=60 * NS_PER_SECOND) is None
    too_old = rule.refusal(roles=nobody, authentication_age_ns=60 * NS_PER_SECOND + 1)
    assert too_old is DenialReason.AUTHENTICATION_TOO_OLD


def test_the_defaults_of_a_rule_are_the_safe_ones() -> None:
    rule = Rule(name="r")
    assert rule.session is SessionNeed.REQUIRED
    assert rule.on_mismatch is OnMismatch.DENY
    assert rule.serve_beyond_lease_ns == 0
