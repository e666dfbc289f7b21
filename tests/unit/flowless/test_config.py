"""Settings are checked once; a refusal names every problem and shows no value."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from pydantic import ValidationError

from flowless.config import ConfigError, Settings, load

SENTINEL = "value-not-to-be-shown"
TLS = {"TLS_CERT_FILE": "cert.pem", "TLS_KEY_FILE": "key.pem"}


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FLOWLESS_")]:
        monkeypatch.delenv(name)


def _loaded(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str] = MappingProxyType({}), *, file: Path | None = None
) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"FLOWLESS_{name}", value)
    return load(file)


def _refusal(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str] = MappingProxyType({}), *, file: Path | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        _loaded(monkeypatch, variables, file=file)
    assert caught.value.__cause__ is None
    assert SENTINEL not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_usable() -> None:
    settings = load()
    assert settings.is_local
    assert not settings.reflection
    assert settings.database_file == Path("flowless.db")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load().listen = "x"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"SMTP_URL": f"smtps://user:{SENTINEL}@mail.example", "MAIL_FROM": "a@example.org"}, "smtp_url"),
        ({"SMTP_URL": "smtp://mail.example", "MAIL_FROM": "a@example.org"}, "smtp_url"),
        ({"SMTP_URL": "smtps://mail.example"}, "mail_from"),
        ({"SMTP_URL": "smtps://user@mail.example", "MAIL_FROM": "a@example.org"}, "smtp_password_file"),
        ({"LINK_URLS": '{"magic_link": "https://app.example/{token}"}'}, "smtp_url"),
        ({"LINK_URLS": '{"magic_link": "http://app.example/{token}"}'}, "link_urls"),
        (
            {
                "SMTP_URL": "smtps://mail.example",
                "MAIL_FROM": "a@example.org",
                "LINK_URLS": '{"gift": "https://app.example/{token}"}',
            },
            "gift",
        ),
        ({"MAIL_DEFAULT_LOCALE": "../etc"}, "mail_default_locale"),
        ({"DATABASE_URL": SENTINEL}, "database_url"),
        ({"DATABASE_URL": ""}, "database_url"),
        ({"DATABASE_URL": "sqlite://"}, "database_url"),
        ({"DATABASE_URL": "sqlite:///"}, "database_url"),
        ({"DATABASE_URL": "sqlite:///:memory:"}, "database_url"),
        ({"DATABASE_URL": f"sqlite:///x.db?{SENTINEL}=1"}, "database_url"),
        ({"DATABASE_URL": f"postgresql://user:{SENTINEL}@host"}, "database_url"),
        ({"DATABASE_URL": f"postgresql://user:{SENTINEL}@host/db#x"}, "database_url"),
        ({"DATABASE_URL": f"mysql://user:{SENTINEL}@host/db"}, "database_url"),
        ({"DATABASE_PASSWORD_FILE": SENTINEL}, "database_password_file"),
        ({"REDIS_PASSWORD_FILE": SENTINEL}, "redis_password_file"),
        (
            {"REDIS_URL": f"redis://:{SENTINEL}@h", "REDIS_KEY_FILE": "keys", "REDIS_PASSWORD_FILE": "password"},
            "redis_password_file",
        ),
        ({"LISTEN": "0.0.0.0:7600"}, "listen"),
        ({"LISTEN": "[::]:7600"}, "listen"),
        ({"LISTEN": f"{SENTINEL}:7600"}, "listen"),
        ({"LISTEN": ""}, "listen"),
        ({"LISTEN": ":7600"}, "listen"),
        ({"LISTEN": "localhost"}, "listen"),
        ({"LISTEN": "127.0.0.1:99999"}, "listen"),
        ({"LISTEN": "127.0.0.1:65536"}, "listen"),
        ({"LISTEN": "127.0.0.1:-1"}, "listen"),
        ({"LISTEN": "unix:relative.sock"}, "listen"),
        ({"TLS_CERT_FILE": SENTINEL}, "tls_key_file"),
        ({"TLS_KEY_FILE": SENTINEL}, "tls_cert_file"),
        ({"INSECURE_LISTEN": SENTINEL}, "insecure_listen"),
        ({"SESSION_ABSOLUTE_SECONDS": "59"}, "session_absolute_seconds"),
        ({"SESSION_ABSOLUTE_SECONDS": "99999999999"}, "session_absolute_seconds"),
        ({"SESSION_ABSOLUTE_SECONDS": ""}, "session_absolute_seconds"),
        ({"SESSION_ABSOLUTE_SECONDS": SENTINEL}, "session_absolute_seconds"),
        ({"SESSION_IDLE_SECONDS": "0"}, "session_idle_seconds"),
        ({"SESSION_IDLE_SECONDS": "86401"}, "session_idle_seconds"),
        ({"SESSION_IDLE_SECONDS": "60", "ACTIVITY_INTERVAL_SECONDS": "31"}, "activity_interval_seconds"),
        ({"ACTIVITY_INTERVAL_SECONDS": "0"}, "activity_interval_seconds"),
        ({"PASSWORD_PROFILE": SENTINEL}, "password_profile"),
        ({"PASSWORD_PROFILE": "testing"}, "password_profile"),
        ({"HASHING_QUEUE": "-1"}, "hashing_queue"),
        ({"TESTING": SENTINEL}, "testing"),
        ({"BUSY_TIMEOUT_SECONDS": "0"}, "busy_timeout_seconds"),
        ({"BUSY_TIMEOUT_SECONDS": "nan"}, "busy_timeout_seconds"),
        ({"BUSY_TIMEOUT_SECONDS": "inf"}, "busy_timeout_seconds"),
        ({"POLL_SECONDS": "1.5"}, "poll_seconds"),
        ({"POLL_SECONDS": "0"}, "poll_seconds"),
        ({"MIN_READ_SPACING_SECONDS": "-1"}, "min_read_spacing_seconds"),
        ({"MAX_WATCHERS": "0"}, "max_watchers"),
        ({"MAX_CONCURRENT_CALLS": "0"}, "max_concurrent_calls"),
        ({"MAX_MESSAGE_BYTES": "4095"}, "max_message_bytes"),
        ({"DRAIN_SECONDS": "-1"}, "drain_seconds"),
        ({"DRAIN_SECONDS": "nan"}, "drain_seconds"),
        ({"REFLECTION": SENTINEL}, "reflection"),
        ({"LOG_LEVEL": SENTINEL}, "log_level"),
        ({"LOG_FORMAT": SENTINEL}, "log_format"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_and_not_by_value(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    assert named in _refusal(monkeypatch, variables)


@pytest.mark.parametrize("endpoint", ["http://name:word@collector:4317", "http://collector/path:4317"])
def test_a_collector_is_told_by_host_and_port_alone(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    assert "traces_endpoint" in _refusal(monkeypatch, {"TRACES_ENDPOINT": endpoint})


def test_every_problem_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _refusal(monkeypatch, dict.fromkeys(("MAX_WATCHERS", "LOG_LEVEL", "DATABASE_URL"), SENTINEL))
    assert all(f"\n  {name}: " in text for name in ("max_watchers", "log_level", "database_url"))


@pytest.mark.parametrize(
    "listen",
    [
        "127.0.0.1:0",
        "127.8.8.8:7600",
        "localhost:7600",
        "[::1]:7600",
        "unix:/run/flowless.sock",
    ],
)
def test_plaintext_is_served_where_only_this_machine_can_reach_it(
    monkeypatch: pytest.MonkeyPatch, listen: str
) -> None:
    assert _loaded(monkeypatch, {"LISTEN": listen}).is_local


@pytest.mark.parametrize("listen", ["0.0.0.0:7600", "[::]:7600", "192.0.2.1:7600", "flowless.internal:7600"])
def test_anything_else_needs_tls_or_a_word_that_says_insecure(monkeypatch: pytest.MonkeyPatch, listen: str) -> None:
    _refusal(monkeypatch, {"LISTEN": listen})
    assert not _loaded(monkeypatch, {"LISTEN": listen} | TLS).is_local
    for name in TLS:
        monkeypatch.delenv(f"FLOWLESS_{name}")
    assert not _loaded(monkeypatch, {"LISTEN": listen, "INSECURE_LISTEN": "true"}).is_local


def test_the_profile_for_tests_needs_the_word_testing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _loaded(monkeypatch, {"PASSWORD_PROFILE": "testing", "TESTING": "1"}).testing


def test_variables_win_over_the_file_and_the_file_over_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "flowless.toml"
    file.write_text('max_watchers = 7\nlog_level = "debug"\nreflection = true\n')
    settings = _loaded(monkeypatch, {"LOG_LEVEL": "error"}, file=file)
    assert (settings.max_watchers, settings.log_level, settings.reflection) == (7, "error", True)
    assert (load().max_watchers, load().max_message_bytes) == (2_000, settings.max_message_bytes)


def test_what_the_program_says_itself_wins_over_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWLESS_REFLECTION", "false")
    assert load(None, reflection=True).reflection


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f'max_wachers = "{SENTINEL}"', "max_wachers"),
        (f'max_watchers = "{SENTINEL}"', "max_watchers"),
        (f"[flowless]\nmax_watchers = '{SENTINEL}'", "flowless"),
        (f"{SENTINEL} is not TOML", "flowless.toml"),
        (f"max_watchers = {SENTINEL}", "flowless.toml"),
        ("max_watchers = 1\nmax_watchers = 2", "flowless.toml"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_not_by_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, named: str
) -> None:
    file = tmp_path / "flowless.toml"
    file.write_text(text)
    assert named in _refusal(monkeypatch, file=file)


def test_a_file_that_is_not_text_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "flowless.toml"
    file.write_bytes(b"\xff\xfe")
    assert "flowless.toml" in _refusal(monkeypatch, file=file)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    assert "no such file" in _refusal(monkeypatch, file=tmp_path / name)
