"""Settings of the gate: what would open it by mistake is refused by name."""

from typing import Any

import pytest

from bridge_sidecar.config import PREFIX, SECRET_VARIABLE, ConfigError, SidecarConfig, load
from bridge_sidecar.identity_headers import KNOWN
from tests.support.sidecar import new_secret

LEAST = {SECRET_VARIABLE: new_secret()}


def _load(**variables: str) -> SidecarConfig:
    return load(None, {**LEAST, **{PREFIX + key: value for key, value in variables.items()}})


def test_nobody_may_ask_unless_that_is_set() -> None:
    config = _load()
    assert (config.ext_authz, config.forward_auth_listen, config.trusted_proxies) == (False, "", ())


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:4181", "[::1]:0", "localhost:4181", "127.9.9.9:1", "unix:/run/x/f.sock"]
)
def test_forward_auth_may_listen_where_only_this_machine_reaches(listen: str) -> None:
    assert _load(FORWARD_AUTH_LISTEN=listen).forward_auth_listen == listen


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FORWARD_AUTH_LISTEN", "0.0.0.0:4181"),
        ("FORWARD_AUTH_LISTEN", "[::]:4181"),
        ("FORWARD_AUTH_LISTEN", "10.0.0.1:4181"),
        ("FORWARD_AUTH_LISTEN", "example.org:4181"),
        ("FORWARD_AUTH_LISTEN", ":4181"),
        ("FORWARD_AUTH_LISTEN", "127.0.0.1"),
        ("FORWARD_AUTH_LISTEN", "127.0.0.1:70000"),
        ("FORWARD_AUTH_LISTEN", "unix:relative.sock"),
        ("FORWARD_AUTH_REQUEST_HEADERS", "both"),
        ("CLIENT_IP_HEADER", "x-real-ip"),
        ("CLIENT_IP_HEADER", "X-Forwarded-For"),
        ("DEVICE_FINGERPRINT_HEADER", "X-Device"),
        ("DEVICE_FINGERPRINT_HEADER", "x device"),
        ("IDENTITY_HEADERS", "x-user-id,x-user-phone"),
        ("SESSION_ID_FROM", "query:session_id"),
        ("SESSION_ID_FROM", ""),
        ("SESSION_ID_FROM", "bearer,bearer"),
        ("TRUSTED_PROXIES", "0.0.0.0/0"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "proxy.example.org"),
        ("EXT_AUTHZ", "yes"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as error:
        _load(**{variable: value})
    assert variable.lower() in str(error.value)
    assert not value or value not in str(error.value)


@pytest.mark.parametrize("settings", [{"IDENTITY_HEADERS": ",".join(KNOWN)}, {"IDENTITY_HEADERS": ""}])
def test_the_app_may_be_told_everything_or_nothing(settings: dict[str, Any]) -> None:
    assert _load(**settings).identity_headers == (KNOWN if settings["IDENTITY_HEADERS"] else ())
