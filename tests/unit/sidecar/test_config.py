"""Settings: every problem at once, each with what to do, and never a value."""

from dataclasses import fields
from pathlib import Path

import pytest

from bridge_sidecar.config import DEFAULT_RELAY, PREFIX, SECRET_VARIABLE, ConfigError, SidecarConfig, load
from bridge_sidecar.relay import resolve
from tests.support.sidecar import new_secret
from trust_core import logs
from trust_core.modes import ValidationMode

SECRET = new_secret()
LEAST = {SECRET_VARIABLE: SECRET}


def _load(text: str = "", **variables: str) -> SidecarConfig:
    return load(None, {**LEAST, **{PREFIX + key: value for key, value in variables.items()}})


def _problems(**variables: str) -> str:
    with pytest.raises(ConfigError) as error:
        _load(**variables)
    return str(error.value)


def _file(path: Path, text: str) -> Path:
    file = path / "sidecar.toml"
    file.write_text(text)
    return file


def test_a_secret_is_all_that_must_be_set() -> None:
    config = load(None, LEAST)
    assert config.max_staleness_ns == 2_000_000_000
    assert config.ping_interval_ns == 500_000_000
    assert config.mode is ValidationMode.STANDARD
    assert config.upstream_timeout_seconds <= config.max_staleness_seconds


def test_the_secret_is_not_in_the_representation() -> None:
    assert SECRET not in repr(load(None, LEAST))


def test_the_environment_goes_over_the_file(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        'socket_path = "/run/a/b.sock"\nmax_staleness_seconds = 4\nrelay = ["SessionService/Login"]\n'
        'default_mode = "strict"\ninsecure_upstream = true\ncache_max_entries = 7\n',
    )
    config = load(file, {**LEAST, f"{PREFIX}MAX_STALENESS_SECONDS": "3.5", f"{PREFIX}INSECURE_UPSTREAM": "false"})
    assert config.max_staleness_seconds == 3.5
    assert config.insecure_upstream is False
    assert (config.socket_path, config.relay, config.cache_max_entries) == (
        "/run/a/b.sock",
        ("SessionService/Login",),
        7,
    )
    assert config.mode is ValidationMode.STRICT


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    file = _file(
        tmp_path, 'sokcet_path = "x"\ncache_max_entries = "many"\nrelay = [1]\nsecret = "x"\nlog_level = 3\n'
    )
    with pytest.raises(ConfigError) as error:
        load(file, {f"{PREFIX}DRAIN_SECONDS": "soon", f"{PREFIX}NO_SUCH": "1"})
    text = str(error.value)
    for name in ("sokcet_path", "cache_max_entries", "relay", "secret", "log_level", "drain_seconds", "NO_SUCH"):
        assert f"\n  {name}" in text.replace(PREFIX, "")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MAX_STALENESS_SECONDS", "0"),
        ("MAX_STALENESS_SECONDS", "61"),
        ("MAX_STALENESS_SECONDS", "nan"),
        ("CACHE_MAX_ENTRIES", "0"),
        ("CACHE_MAX_ENTRIES", "1.5"),
        ("MAX_CONCURRENT_MISSES", "-1"),
        ("DEFAULT_MODE", "lenient"),
        ("LOG_LEVEL", "loud"),
        ("UPSTREAM_TIMEOUT_SECONDS", "2.1"),
        ("PING_INTERVAL_SECONDS", "1.5"),
        ("SOCKET_PATH", "relative.sock"),
        ("RELAY", "Login"),
        ("INSECURE_UPSTREAM", "yes"),
        ("INSTANCE", "i" * 129),
        ("METRICS_LISTEN", "9100"),
        ("METRICS_LISTEN", ":9100"),
        ("METRICS_LISTEN", "127.0.0.1:65536"),
        ("METRICS_LISTEN", "127.0.0.1:-1"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(variable: str, value: str) -> None:
    assert variable.lower() in _problems(**{variable: value})


@pytest.mark.parametrize("upstream", ["127.0.0.1:7600", "[::1]:7600", "localhost:1", "unix:/run/f.sock"])
def test_plaintext_may_go_to_this_machine(upstream: str) -> None:
    assert _load(UPSTREAM=upstream).upstream == upstream


@pytest.mark.parametrize("listen", ["", "127.0.0.1:0", "0.0.0.0:9100", "[::1]:65535", "localhost:9100"])
def test_metrics_may_be_served_anywhere_or_nowhere(listen: str) -> None:
    assert _load(METRICS_LISTEN=listen).metrics_listen == listen


@pytest.mark.parametrize("upstream", ["10.0.0.1:7600", "flowless:7600", "0.0.0.0:7600", "[fe80::1]:7600"])
def test_plaintext_may_leave_this_machine_only_when_that_is_said(upstream: str) -> None:
    assert "upstream_ca_file" in _problems(UPSTREAM=upstream)
    assert _load(UPSTREAM=upstream, INSECURE_UPSTREAM="true").insecure_upstream


@pytest.mark.parametrize("upstream", ["127.0.0.1:1,127.0.0.1:2", "[::1]:1,[::1]:2,[::1]:3"])
def test_several_replicas_may_be_named_by_their_addresses(upstream: str) -> None:
    assert _load(UPSTREAM=upstream).upstream == upstream


@pytest.mark.parametrize("upstream", ["127.0.0.1:1,[::1]:2", "localhost:1,localhost:2", "127.0.0.1:1,flowless:2"])
def test_names_and_families_are_not_mixed_among_several_addresses(upstream: str) -> None:
    assert "IP addresses of one family" in _problems(UPSTREAM=upstream, INSECURE_UPSTREAM="true")


@pytest.mark.parametrize(
    "upstream",
    [
        "127.0.0.1:1,",
        ",",
        "127.0.0.1:1,,127.0.0.1:2",
        "",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:99999",
        "dns:///h:1",
        "unix:rel",
    ],
)
def test_an_upstream_that_is_no_address_is_refused(upstream: str) -> None:
    assert "upstream: must be host:port" in _problems(UPSTREAM=upstream, INSECURE_UPSTREAM="true")


def test_a_ca_file_allows_any_host_and_must_exist(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    assert "no such file" in _problems(UPSTREAM="flowless:7600", UPSTREAM_CA_FILE=str(pem))
    pem.touch()
    assert _load(UPSTREAM="flowless:7600", UPSTREAM_CA_FILE=str(pem)).upstream_ca_file == str(pem)


@pytest.mark.parametrize("environment", [{}, {**LEAST, f"{PREFIX}BRIDGE_SECRET_FILE": "/run/secret"}])
def test_the_secret_comes_from_exactly_one_place(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        load(None, environment)


def test_a_file_that_is_missing_or_not_toml_is_refused_without_quoting_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.toml", LEAST)
    with pytest.raises(ConfigError) as error:
        load(_file(tmp_path, SECRET), LEAST)
    assert SECRET not in str(error.value)


def test_variables_that_an_orchestrator_injects_are_ignored() -> None:
    injected = {
        f"{PREFIX}SERVICE_HOST": "10.0.0.1",
        f"{PREFIX}PORT_80_TCP": "tcp://10.0.0.1:80",
        f"{PREFIX}PORT": "x",
    }
    assert load(None, {**LEAST, **injected})


def test_no_problem_quotes_a_value() -> None:
    for field in fields(SidecarConfig):
        if field.name in ("bridge_secret", "bridge_secret_file", "instance", "upstream_ca_file"):
            continue
        assert SECRET not in _problems(**{field.name.upper(): SECRET})


def test_the_default_relay_names_exist() -> None:
    assert resolve(DEFAULT_RELAY)


def test_the_choices_for_logs_are_those_that_logs_know() -> None:
    for level in logs.LEVELS:
        assert _load(LOG_LEVEL=level).log_level == level
    for style in logs.FORMATS:
        assert _load(LOG_FORMAT=style).log_format == style


@pytest.mark.parametrize("endpoint", ["http://name:word@collector:4317", "http://collector/path:4317"])
def test_a_collector_is_told_by_host_and_port_alone(endpoint: str) -> None:
    assert "traces_endpoint" in _problems(TRACES_ENDPOINT=endpoint)
