"""A real nginx with the shipped configuration before an app, asking a real sidecar's forward-auth endpoint."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.flowless import CALL_SECONDS
from tests.support.gate import FROM_BROWSER, PROXY, Guarded, Person, guarded_app
from tests.support.http_client import Answer, Connection, Headers, exchange
from tests.support.nginx import PROGRAM, Nginx
from tools.processes import free_port
from trust_core.identifiers import new_session_id

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed on this machine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxied:
    """The app and the nginx before it."""

    guarded: Guarded
    nginx: Nginx

    def get(self, target: str, headers: Headers = (), *, method: str = "GET", body: bytes = b"") -> Answer:
        """Send a request as the browser of all sessions would, through a trusted proxy."""
        return exchange(self.nginx.port, method, target, [*FROM_BROWSER, *headers], body, source=PROXY)


@pytest.fixture(scope="module")
def proxied(module_dir: Path) -> Iterator[Proxied]:
    endpoint = f"unix:{module_dir}/sidecar/forward-auth.sock"
    with guarded_app(module_dir, {"BRIDGE_SIDECAR_FORWARD_AUTH_LISTEN": endpoint}) as guarded:
        nginx = Nginx(
            directory=module_dir / "nginx",
            config="app-forward-auth.conf",
            port=free_port(),
            replace={"server 127.0.0.1:8000;": f"server 127.0.0.1:{guarded.app.port};",
                     "server 127.0.0.1:4181;": f"server {endpoint};"},
        )  # fmt: skip
        with nginx:
            yield Proxied(guarded=guarded, nginx=nginx)


@pytest.fixture(scope="module")
def ada(proxied: Proxied) -> Person:
    return proxied.guarded.log_in(roles=("admin", "büro"))


def _reached(answer: Answer) -> dict[str, str]:
    assert answer.status == 200, (answer.status, answer.body)
    headers = dict(answer.json["headers"])
    assert len(headers) == len(answer.json["headers"])
    return headers


def _refusal(answer: Answer) -> tuple[int, str]:
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    assert (answer.header("www-authenticate") is not None) == (answer.status == 401)
    return answer.status, answer.json["reason"]


def test_a_session_passes_and_the_app_is_told_whose_it_is(proxied: Proxied, ada: Person) -> None:
    headers = _reached(proxied.get("/app/orders?page=2", [ada.cookie]))
    assert headers["x-user-id"] == ada.user.id
    assert headers["x-session-handle"] == ada.handle
    assert headers["x-user-roles"] == "admin,b%C3%BCro"


@pytest.mark.parametrize(
    ("target", "headers", "refusal"),
    [
        ("/app/x", [], (401, "SESSION_MISSING")),
        ("/app/x", [("cookie", "session_id=nonsense")], (401, "MALFORMED")),
        ("/app/x", [("cookie", f"session_id={new_session_id(os.urandom)}")], (401, "UNKNOWN")),
        ("/nowhere", [], (403, "ROUTE_NOT_COVERED")),
    ],
)
def test_what_is_no_session_is_refused_with_its_reason(
    proxied: Proxied, target: str, headers: Headers, refusal: tuple[int, str]
) -> None:
    assert _refusal(proxied.get(target, headers)) == refusal


def test_a_session_that_is_not_good_enough_is_refused_with_its_reason(proxied: Proxied, ada: Person) -> None:
    editor = proxied.guarded.log_in(roles=("editor",))
    assert _refusal(proxied.get("/admin/x", [editor.cookie])) == (403, "ROLE_MISSING")
    answer = proxied.get("/transfer", [ada.cookie], method="POST", body=b"{}")
    assert _refusal(answer) == (401, "AUTHENTICATION_TOO_OLD")
    assert answer.header("www-authenticate") == 'Bearer error="insufficient_user_authentication", max_age="0"'
    elsewhere = exchange(proxied.nginx.port, "GET", "/app/x", [*FROM_BROWSER, ada.cookie], source="127.0.0.8")
    assert _refusal(elsewhere) == (401, "IP_MISMATCH")


SPELLINGS = (
    "x-user-id", "X-USER-ID", "x_user_id", "x.user.id", "x-session-handle", "x-user-roles", "x-user-email",
    "x-user-email-verified", "x-user-name", "x-user-type", "x-user-locale",
)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "as_whom"), [("/public/a", "nobody"), ("/start/a", "nobody"), ("/start/a", "ada"), ("/app/a", "ada")]
)
def test_no_identity_header_of_a_client_reaches_the_app_in_any_spelling(
    proxied: Proxied, ada: Person, target: str, as_whom: str
) -> None:
    cookie = [ada.cookie] if as_whom == "ada" else []
    headers = _reached(proxied.get(target, [*((name, "usr_attacker") for name in SPELLINGS), *cookie]))
    assert "usr_attacker" not in str(headers)
    assert headers.get("x-user-id") == (ada.user.id if as_whom == "ada" else None)


def test_what_a_client_says_of_method_and_path_in_headers_is_not_heard(proxied: Proxied) -> None:
    person = proxied.guarded.log_in()
    for prefix in ("x-forwarded", "x-original"):
        headers = [(f"{prefix}-method", "GET"), (f"{prefix}-uri", "/public/a"), person.cookie]
        assert _refusal(proxied.get("/admin/x", headers)) == (403, "ROLE_MISSING")


@pytest.mark.parametrize(
    "target",
    [
        "//admin/x", "/public/../admin/x", "/./admin/x", "/public/%2e%2e/admin/x", "/public/..;/admin/x",
        "/%61dmin/x",
        "/public/%2fadmin/x", "http://app.example.org/admin/x", "/public%2f..%2fadmin/x", "/_gate", "/public/a%00b",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_gets_past_the_rule_of_what_the_app_gets(proxied: Proxied, target: str) -> None:
    before = proxied.guarded.app.requests
    person = proxied.guarded.log_in(roles=("editor",))
    answer = proxied.get(target, [person.cookie])
    assert answer.status in {400, 403, 404}, answer
    assert proxied.guarded.app.requests == before


def test_a_large_body_passes_untouched_and_is_not_shown_to_the_sidecar(proxied: Proxied, ada: Person) -> None:
    body = os.urandom(1024) * (8 * 1024)
    said = proxied.get("/app/upload", [ada.cookie], method="POST", body=body).json
    assert (said["length"], said["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


def test_a_revoke_ends_what_a_kept_connection_may_do(proxied: Proxied) -> None:
    person = proxied.guarded.log_in()
    with Connection(proxied.nginx.port, source=PROXY) as connection:
        assert connection.exchange("GET", "/app/x", [*FROM_BROWSER, person.cookie]).status == 200
        proxied.guarded.revoke(person)
        answer = connection.exchange("GET", "/app/x", [*FROM_BROWSER, person.cookie])
        assert _refusal(answer) == (401, "REVOKED")


def test_a_sidecar_that_is_gone_closes_the_app_and_opens_it_when_it_is_back(proxied: Proxied, ada: Person) -> None:
    proxied.guarded.sidecar.kill()
    try:
        for target in ("/app/x", "/public/x", "/"):
            answer = proxied.get(target, [ada.cookie])
            assert (answer.status, answer.header("retry-after")) == (503, "1")
    finally:
        proxied.guarded.sidecar.start()
    proxied.guarded.wait_for_lease()
    deadline = time.monotonic() + CALL_SECONDS
    while proxied.get("/app/x", [ada.cookie]).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_no_log_holds_a_session_id(proxied: Proxied, ada: Person) -> None:
    proxied.get(f"/app/x?session_id={ada.session_id}", [ada.cookie, ("referer", f"/?s={ada.session_id}")])
    text = proxied.nginx.access_log.read_text()
    assert ada.handle in text
    for log in (proxied.nginx.access_log, proxied.nginx.error_log, proxied.guarded.sidecar.log):
        assert "sess_" not in log.read_text()
