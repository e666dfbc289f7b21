"""Rules out of a file: what they become, and where a problem stands."""

import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bridge_sidecar.config import ConfigError, SidecarConfig, load, load_file
from bridge_sidecar.routes import OnMismatch, Rule, SessionNeed
from trust_core.clock import NS_PER_SECOND
from trust_core.modes import IpPrefixes, ValidationMode


def _load(directory: Path, text: str) -> SidecarConfig:
    file = directory / "sidecar.toml"
    file.write_text(textwrap.dedent(text), "utf-8")
    return load_file(file)


def _problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as failed:
        _load(directory, text)
    return list(failed.value.problems)


def test_a_file_of_rules(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        """
        default_mode = "advanced"
        ip_prefix_v4 = 24

        [[routes]]
        name = "health"
        match = ["GET /healthz"]
        session = "none"

        [[routes]]
        name = "admin"
        match = [
          "* /admin/**",
          "grpc shop.v1.Admin/*",
        ]
        mode = "strict"
        roles_any = ["admin", "support"]
        roles_all = ["staff"]
        max_authentication_age_seconds = 900
        on_mismatch = "revoke"
        ip_prefix_v6 = 56

        [[routes]]
        name = "catalogue"
        mode = "standard"
        serve_beyond_lease_seconds = 0.5
        """,
    )
    wide = IpPrefixes(24, 64)
    assert config.routes == (
        Rule(name="health", patterns=("GET /healthz",), session=SessionNeed.NONE, ip_prefixes=wide),
        Rule(
            name="admin",
            patterns=("* /admin/**", "grpc shop.v1.Admin/*"),
            mode=ValidationMode.STRICT,
            roles_any=frozenset(("admin", "support")),
            roles_all=frozenset(("staff",)),
            max_authentication_age_ns=900 * NS_PER_SECOND,
            on_mismatch=OnMismatch.REVOKE,
            ip_prefixes=IpPrefixes(24, 56),
        ),
        Rule(
            name="catalogue",
            mode=ValidationMode.STANDARD,
            serve_beyond_lease_ns=NS_PER_SECOND // 2,
            ip_prefixes=wide,
        ),
    )
    assert config.route_table.unnamed.ip_prefixes == wide


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    text = """\
        # mode and name stand here as well
        [[routes]]
        name = "a"
        match = ["GET /x"]
        mode = "lenient"

        [[routes]]
        match = [
          "GET /y",
          "GET /mode*",
        ]
        modus = "strict"
        ip_prefix_v4 = 0
        [[routes]]
        name = "c"
        max_authentication_age_seconds = -1
        roles_any = []
        session = "none"
        on_mismatch = "revoke"
        """
    assert [problem.split("; ")[0].split(", ")[0] for problem in _problems(tmp_path, text)] == [
        "line 5: routes[0].mode: must be one of standard",
        "line 12: routes[1].a setting: no such setting",
        "line 7: routes[1].name: missing",
        "line 8: routes[1].match: pattern 1: must be `METHOD /path`",
        "line 13: routes[1].ip_prefix_v4: must be a whole number from 1 to 32",
        "line 17: routes[2].roles_any: must be a list of 1 to 64 names of roles",
        "line 16: routes[2].max_authentication_age_seconds: must be more than 0 and at most 2678400 seconds",
        "line 18: routes[2].session: nothing is compared where no session is looked at",
    ]


def test_a_file_that_is_not_toml_is_told_with_its_line_and_without_its_text(tmp_path: Path) -> None:
    (problem,) = _problems(tmp_path, 'max_staleness_seconds = 1\n[[routes]]\nname = "secret\n')
    assert problem.endswith("not TOML, line 3, column 15")
    assert "secret" not in problem


def test_a_problem_in_rules_written_in_another_way_is_told_all_the_same(tmp_path: Path) -> None:
    assert _problems(tmp_path, 'routes = [{name = "a", mode = "x"}]\n') == [
        "line 1: routes[0].mode: must be one of standard, advanced, strict"
    ]
    assert _problems(tmp_path, "routes = 3\n") == ["routes: must be written as [[routes]], one for each rule"]
    assert _problems(tmp_path, "[routes]\nname = 1\n") == ["routes: must be written as [[routes]], one for each rule"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("name = ''", "name: must be a text of 1 to 128 bytes"),
        ("name = 3", "name: must be a text of 1 to 128 bytes"),
        (f"name = '{'ä' * 65}'", "name: must be a text of 1 to 128 bytes"),
        ("name = 'n'\nmatch = 'GET /'", "match: must be a list of 1 to 32 patterns"),
        ("name = 'n'\nmatch = []", "match: must be a list of 1 to 32 patterns"),
        ("name = 'n'\nmatch = [1]", "match: must be a list of 1 to 32 patterns"),
        ("name = 'n'\nsession = true", "session: must be one of required, optional, none"),
        ("name = 'n'\non_mismatch = 'allow'", "on_mismatch: must be one of deny, revoke"),
        ("name = 'n'\nroles_all = ['']", "roles_all: must hold no empty name"),
        ("name = 'n'\nserve_beyond_lease_seconds = 300.1", "serve_beyond_lease_seconds: must be more than 0"),
        ("name = 'n'\nserve_beyond_lease_seconds = nan", "serve_beyond_lease_seconds: must be more than 0"),
        ("name = 'n'\nserve_beyond_lease_seconds = inf", "serve_beyond_lease_seconds: must be more than 0"),
        ("name = 'n'\nserve_beyond_lease_seconds = true", "serve_beyond_lease_seconds: must be more than 0"),
        ("name = 'n'\nip_prefix_v6 = 129", "ip_prefix_v6: must be a whole number from 1 to 128"),
        ("name = 'n'\nip_prefix_v6 = true", "ip_prefix_v6: must be a whole number from 1 to 128"),
        ("name = 'n'\nsession = 'optional'\nroles_any = ['a']", "session: roles and the age of the proof are of"),
        ("name = 'n'\nsession = 'none'\nmode = 'strict'", "session: nothing is compared"),
        (
            "name = 'n'\nserve_beyond_lease_seconds = 1\nroles_any = ['a']",
            "serve_beyond_lease_seconds: answers after the lease are for standard mode",
        ),
        (
            "name = 'n'\nserve_beyond_lease_seconds = 1\nmode = 'advanced'",
            "serve_beyond_lease_seconds: answers after the lease are for standard mode",
        ),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(tmp_path: Path, lines: str, told: str) -> None:
    problems = _problems(tmp_path, f"[[routes]]\n{lines}\n")
    assert any(f"routes[0].{told}" in problem for problem in problems), problems


def test_a_second_rule_of_a_name_or_pattern_could_never_be_meant(tmp_path: Path) -> None:
    rule = '[[routes]]\nname = "a"\nmatch = ["GET /"]\n'
    assert _problems(tmp_path, rule * 2) == [
        "line 5: routes[1].name: another rule has it already",
        "line 6: routes[1].match: a pattern stands in an earlier rule already, which wins",
    ]


def test_a_granted_rule_needs_standard_mode_where_the_default_is_another(tmp_path: Path) -> None:
    rule = '\n[[routes]]\nname = "a"\nserve_beyond_lease_seconds = 1\n'
    (problem,) = _problems(tmp_path, f'default_mode = "strict"{rule}')
    assert problem.startswith("default_mode: a rule with serve_beyond_lease_seconds needs mode")
    assert _load(tmp_path, f'default_mode = "strict"{rule}mode = "standard"\n').routes


def test_rules_are_bounded(tmp_path: Path) -> None:
    rules = [f'[[routes]]\nname = "r{number}"\n' for number in range(257)]
    assert len(_load(tmp_path, "".join(rules[:256])).routes) == 256
    assert _problems(tmp_path, "".join(rules)) == ["routes: must be at most 256 rules"]
    many = ", ".join(f'"GET /{number}"' for number in range(32))
    patterns = [f'[[routes]]\nname = "r{n}"\nmatch = [{many.replace("GET /", f"GET /{n}-")}]\n' for n in range(33)]
    assert _load(tmp_path, "".join(patterns[:32])).routes
    assert _problems(tmp_path, "".join(patterns)) == [
        "routes: must hold at most 1024 patterns in all; each is tried in turn"
    ]
    (problem,) = _problems(tmp_path, "#" * (256 * 1024 + 1))
    assert problem.endswith("has more than 262144 bytes")


def test_not_more_problems_are_told_than_anybody_reads(tmp_path: Path) -> None:
    text = "".join(f'[[routes]]\nname = "r{number}"\nmode = 1\n' for number in range(200))
    assert len(_problems(tmp_path, text)) == 50


def test_lines_are_found_without_reading_the_file_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []
    loads = tomllib.loads

    def counted(text: str) -> dict[str, Any]:
        reads.append(len(text))
        return loads(text)

    monkeypatch.setattr(tomllib, "loads", counted)
    array = '"routes mode",\n' * 100
    problems = _problems(tmp_path, f'[[routes]]\nname = "r"\nmatch = [\n{array}]\nmode = "x"\n')
    assert [problem.split(":")[0] for problem in problems] == ["line 3", "line 105"]
    assert len(reads) == 1


def test_a_file_that_is_nested_too_deeply_is_a_problem(tmp_path: Path) -> None:
    (problem,) = _problems(tmp_path, "a = " + "[" * 100_000)
    assert problem.endswith("nested too deeply")


def test_variables_win_over_the_files_prefixes_in_rules_as_well(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.toml"
    file.write_text('ip_prefix_v4 = 8\n[[routes]]\nname = "r"\n')
    config = load(file, {"BRIDGE_SIDECAR_SECRET": "s", "BRIDGE_SIDECAR_IP_PREFIX_V4": "32"})
    assert config.routes[0].ip_prefixes == config.ip_prefixes == IpPrefixes(32, 64)


def test_settings_that_do_not_exist_are_told_in_bounds_and_without_what_may_be_a_secret(tmp_path: Path) -> None:
    problems = _problems(tmp_path, "brdg_Ab12 = 1\nmodus = 1\n" + "".join(f"k{n} = 1\n" for n in range(20_000)))
    assert len(problems) <= 50
    assert problems[1].startswith("modus: no such setting")
    assert "Ab12" not in "".join(problems)
