"""A real Envoy with the shipped configuration before an app, asking a real sidecar of a real Flowless."""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.echo_app import websocket_accept
from tests.support.envoy import Envoy
from tests.support.flowless import CALL_SECONDS
from tests.support.gate import FROM_BROWSER, PROXY, Guarded, Person, guarded_app
from tests.support.http_client import Answer, Connection, Headers, exchange
from tests.support.system import BROWSER
from tools.processes import free_port
from trust_core.identifiers import new_session_id
from trustlayer.v1 import identity_pb2, types_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxied:
    """The app and the Envoy before it."""

    guarded: Guarded
    envoy: Envoy
    port: int

    def get(self, target: str, headers: Headers = (), *, method: str = "GET", body: bytes = b"") -> Answer:
        """Send a request as the browser of all sessions would, unless `headers` are someone else's."""
        return exchange(self.port, method, target, [*FROM_BROWSER, *headers], body, source=PROXY)

    def logged(self, request_id: str) -> dict[str, object]:
        """Wait for the access log's line of a request."""
        deadline = time.monotonic() + CALL_SECONDS
        while time.monotonic() < deadline:
            exchange(self.envoy.admin_port, "POST", "/reopen_logs")  # written once in ten seconds otherwise
            for line in self.envoy.access_log.read_text().splitlines():
                if request_id in line:
                    found: dict[str, object] = json.loads(line)
                    return found
            time.sleep(0.05)
        raise AssertionError("not in the access log")


@pytest.fixture(scope="module")
def proxied(module_dir: Path) -> Iterator[Proxied]:
    with guarded_app(module_dir, {"BRIDGE_SIDECAR_EXT_AUTHZ": "true"}) as guarded:
        port = free_port()
        envoy = Envoy(
            directory=module_dir,
            config="app-ext-authz.yaml",
            replace={
                "{ address: 0.0.0.0, port_value: 8080 }": f"{{ address: 127.0.0.1, port_value: {port} }}",
                "port_value: 8000": f"port_value: {guarded.app.port}",
                "/run/bridge-sidecar/bridge.sock": str(guarded.sidecar.socket),
            },
        )
        with envoy:
            yield Proxied(guarded=guarded, envoy=envoy, port=port)


@pytest.fixture(scope="module")
def ada(proxied: Proxied) -> Person:
    return proxied.guarded.log_in(roles=("admin", "büro"))


def reached(answer: Answer) -> dict[str, list[str]]:
    """Headers with which a request reached the app, by name as it was written."""
    assert answer.status == 200, (answer.status, answer.body)
    found: dict[str, list[str]] = {}
    for name, value in answer.json["headers"]:
        found.setdefault(name, []).append(value)
    return found


def test_a_session_passes_and_the_app_is_told_whose_it_is(proxied: Proxied, ada: Person) -> None:
    headers = reached(proxied.get("/app/orders?page=2", [ada.cookie]))
    assert headers["x-user-id"] == [ada.user.id]
    assert headers["x-session-handle"] == [ada.handle]
    assert headers["x-user-roles"] == ["admin,b%C3%BCro"]
    assert headers["x-user-email"] == [ada.user.email]
    assert headers["cookie"] == [f"theme=dark; session_id={ada.session_id}"]


def test_a_bearer_is_as_good_as_a_cookie(proxied: Proxied, ada: Person) -> None:
    answer = proxied.get("/app/orders", [("authorization", f"Bearer {ada.session_id}")])
    assert reached(answer)["x-user-id"] == [ada.user.id]


def test_cookies_may_come_in_several_lines(proxied: Proxied, ada: Person) -> None:
    cookies = [("cookie", "theme=dark"), ("cookie", f"session_id={ada.session_id}")]
    assert reached(proxied.get("/app/orders", cookies))["x-user-id"] == [ada.user.id]


def test_roles_open_what_they_should(proxied: Proxied, ada: Person) -> None:
    assert reached(proxied.get("/admin/users", [ada.cookie], method="DELETE"))["x-user-id"] == [ada.user.id]


def _refusal(answer: Answer) -> tuple[int, str]:
    assert answer.header("content-type") == "application/json"
    assert answer.header("cache-control") == "no-store"
    assert set(answer.json) == {"reason", "message"}
    assert (answer.header("www-authenticate") is not None) == (answer.status == 401)
    return answer.status, answer.json["reason"]


def _past(seconds: float) -> int:
    return round((time.time() - seconds) * 1e6)


def _expired(guarded: Guarded) -> Person:
    person = guarded.log_in()
    guarded.set_in_database(person, "expires_us", _past(10))
    return person


def _idle(guarded: Guarded) -> Person:
    person = guarded.log_in()
    guarded.set_in_database(person, "last_seen_us", _past(40 * 24 * 3600))
    return person


def _disabled(guarded: Guarded) -> Person:
    person = guarded.log_in()
    guarded.admin.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=person.user.id))
    return person


def _revoked(guarded: Guarded) -> Person:
    person = guarded.log_in()
    guarded.revoke(person)
    return person


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_expired, "EXPIRED"), (_idle, "IDLE"), (_disabled, "USER_DISABLED"), (_revoked, "REVOKED")],
)
def test_a_session_that_is_not_active_is_refused_with_its_reason(
    proxied: Proxied, make: Callable[[Guarded], Person], reason: str
) -> None:
    answer = proxied.get("/app/orders", [make(proxied.guarded).cookie])
    assert _refusal(answer) == (401, reason)
    assert answer.header("www-authenticate") == 'Bearer error="invalid_token"'


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "SESSION_MISSING"),
        ([("cookie", "session_id=sess_nonsense")], "MALFORMED"),
        ([("cookie", f"session_id={new_session_id(os.urandom)}")], "UNKNOWN"),
        ([("cookie", "session_id=a"), ("cookie", "session_id=b")], "MALFORMED"),
    ],
)
def test_what_is_no_session_is_refused_with_its_reason(proxied: Proxied, headers: Headers, reason: str) -> None:
    assert _refusal(proxied.get("/app/orders", headers)) == (401, reason)


def test_two_cookies_of_the_sessions_name_are_refused_even_if_one_is_good(proxied: Proxied, ada: Person) -> None:
    other = ("cookie", f"session_id={new_session_id(os.urandom)}")
    for headers in ([ada.cookie, other], [other, ada.cookie], [ada.cookie, ada.cookie]):
        assert _refusal(proxied.get("/app/orders", headers)) == (401, "MALFORMED")


@pytest.mark.parametrize(
    ("target", "changed", "reason"),
    [
        ("/app/orders", {"x-forwarded-for": "198.51.100.9"}, "IP_MISMATCH"),
        ("/app/orders", {"x-forwarded-for": None}, "CONTEXT_MISSING"),
        ("/app/orders", {"x-forwarded-for": "203.0.113.7, unknown"}, "CONTEXT_MISSING"),
        ("/app/orders", {"x-forwarded-for": "203.0.113.7, 198.51.100.9"}, "IP_MISMATCH"),
        ("/devices", {"x-device-fingerprint": "another"}, "DEVICE_MISMATCH"),
        ("/devices", {"x-device-fingerprint": None}, "CONTEXT_MISSING"),
        ("/keys", {"user-agent": "another"}, "USER_AGENT_MISMATCH"),
        ("/keys", {"user-agent": None}, "CONTEXT_MISSING"),
    ],
)
def test_a_request_from_elsewhere_is_refused_with_its_reason(
    proxied: Proxied, ada: Person, target: str, changed: dict[str, str | None], reason: str
) -> None:
    sent = {name: value for name, value in (dict(FROM_BROWSER) | changed).items() if value is not None}
    answer = exchange(proxied.port, "GET", target, [*sent.items(), ada.cookie], source=PROXY)
    assert _refusal(answer) == (401, reason)


def test_a_rule_may_end_a_session_that_is_used_from_elsewhere(proxied: Proxied) -> None:
    person = proxied.guarded.log_in()
    elsewhere = [("x-forwarded-for", "198.51.100.9"), person.cookie]
    assert proxied.get("/vault", [person.cookie]).status == 200
    assert _refusal(exchange(proxied.port, "GET", "/vault", elsewhere, source=PROXY)) == (401, "IP_MISMATCH")
    assert _refusal(proxied.get("/vault", [person.cookie])) == (401, "REVOKED")


def test_what_was_not_bound_at_login_cannot_be_asked_for(proxied: Proxied) -> None:
    context = types_pb2.RequestContext(client_ip=BROWSER.client_ip)
    person = proxied.guarded.log_in(context=context)
    assert _refusal(proxied.get("/devices", [person.cookie])) == (401, "CONTEXT_NOT_BOUND")
    assert proxied.get("/app/x", [person.cookie]).status == 200


def test_what_a_client_prepends_to_its_address_does_not_matter(proxied: Proxied, ada: Person) -> None:
    for spoofed in (("x-forwarded-for", "198.51.100.9, 10.0.0.1"), ("forwarded", "for=198.51.100.9")):
        headers = [spoofed, *FROM_BROWSER, ada.cookie]
        assert exchange(proxied.port, "GET", "/app/x", headers, source=PROXY).status == 200


def test_a_client_that_is_no_trusted_proxy_is_known_by_its_own_address_whatever_it_says(
    proxied: Proxied, ada: Person
) -> None:
    headers = [*FROM_BROWSER, ("x-envoy-external-address", BROWSER.client_ip), ("x-real-ip", BROWSER.client_ip)]
    answer = exchange(proxied.port, "GET", "/app/x", [*headers, ada.cookie], source="127.0.0.8")
    assert _refusal(answer) == (401, "IP_MISMATCH")
    neighbour = proxied.guarded.log_in(context=types_pb2.RequestContext(client_ip="127.0.0.8"))
    assert exchange(proxied.port, "GET", "/app/x", [neighbour.cookie], source="127.0.0.8").status == 200


def test_a_missing_role_is_403_and_names_no_challenge(proxied: Proxied) -> None:
    person = proxied.guarded.log_in(roles=("editor",))
    assert _refusal(proxied.get("/admin/users", [person.cookie])) == (403, "ROLE_MISSING")


@pytest.mark.parametrize(
    ("method", "code"),
    [("Cancel", grpc.StatusCode.UNAUTHENTICATED), ("Delete", grpc.StatusCode.PERMISSION_DENIED)],
)
def test_a_grpc_client_is_refused_in_its_own_words(proxied: Proxied, method: str, code: grpc.StatusCode) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{proxied.port}") as channel:
        call: Any = channel.unary_unary(f"/shop.v1.Orders/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=CALL_SECONDS)
    assert caught.value.code() is code


def test_an_old_proof_asks_for_a_fresh_one_as_rfc_9470_has_it(proxied: Proxied, ada: Person) -> None:
    answer = proxied.get("/transfer", [ada.cookie], method="POST", body=b"{}")
    assert _refusal(answer) == (401, "AUTHENTICATION_TOO_OLD")
    assert answer.header("www-authenticate") == 'Bearer error="insufficient_user_authentication", max_age="0"'


@pytest.mark.parametrize(("method", "target"), [("GET", "/nowhere"), ("PUT", "/app/x"), ("PURGE", "/app/x")])
def test_what_no_rule_covers_is_refused_for_all(proxied: Proxied, ada: Person, method: str, target: str) -> None:
    assert _refusal(proxied.get(target, [ada.cookie], method=method)) == (403, "ROUTE_NOT_COVERED")


SPELLINGS = (
    "x-user-id", "X-User-Id", "X-USER-ID", "x_user_id", "X_User-Id", "x.user.id", "x-user_id", "x-session-handle",
    "x_session_handle", "x-user-roles", "x~user~roles", "x-user-email", "x-user-email-verified", "x-user-name",
    "x_user_type",
    "x-user-locale",
)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "as_whom"),
    [("/public/a", "nobody"), ("/start/a", "nobody"), ("/start/a", "ada"), ("/app/a", "ada"), ("/admin/a", "ada")],
)
def test_no_identity_header_of_a_client_reaches_the_app_in_any_spelling(
    proxied: Proxied, ada: Person, target: str, as_whom: str
) -> None:
    cookie = [ada.cookie] if as_whom == "ada" else []
    spoofed = [(name, "usr_attacker") for name in (*SPELLINGS, *SPELLINGS)]
    headers = reached(proxied.get(target, [*spoofed, *cookie]))
    assert "usr_attacker" not in str(headers)
    folded = {name.replace("_", "-").replace(".", "-").replace("~", "-"): value for name, value in headers.items()}
    expected = [ada.user.id] if as_whom == "ada" else None
    assert folded.get("x-user-id") == expected
    assert ("x-user-roles" in folded) == (as_whom == "ada")


def test_a_route_without_a_session_is_passed_without_a_look(proxied: Proxied, ada: Person) -> None:
    assert "x-user-id" not in reached(proxied.get("/public/logo", [ada.cookie]))
    assert "x-user-id" not in reached(proxied.get("/public/logo", [("cookie", "session_id=nonsense")]))


def test_a_route_with_an_optional_session_tells_people_apart_and_lets_nobody_pass_as_nobody(
    proxied: Proxied, ada: Person
) -> None:
    assert reached(proxied.get("/", [ada.cookie]))["x-user-id"] == [ada.user.id]
    for headers in ([], [("cookie", "session_id=nonsense")], [_revoked(proxied.guarded).cookie]):
        assert "x-user-id" not in reached(proxied.get("/", headers))


@pytest.mark.parametrize(
    "target",
    [
        "//admin/x", "/%61dmin/x", "/public/../admin/x", "/./admin/x", "/public/%2e%2e/admin/x",
        "http://app.example.org/admin/x", "/admin/x?a=/public/", "/admin/x#/public/",
        "/public/../../admin/x", "/public/..;/admin/x", "/public\\..\\admin/x", "///admin///x",
        "/public/.%2e/admin/x",
    ],
)  # fmt: skip
def test_a_path_written_differently_meets_the_rule_of_what_the_app_gets(proxied: Proxied, target: str) -> None:
    before = proxied.guarded.app.requests
    person = proxied.guarded.log_in(roles=("editor",))
    answer = proxied.get(target, [person.cookie])
    assert answer.status in {400, 403}, answer
    assert proxied.guarded.app.requests == before


@pytest.mark.parametrize(
    "target",
    [
        "/public/%2e%2e;/admin/x", "/public%2f..%2fadmin/x", "/public/%2fadmin/x", "/public%5c..%5cadmin/x",
        "/public/..%5cadmin/x", "/public/%252e%252e/admin/x", "/public/a%00b", "/public/%zz",
        "/public;x=y/a", "*", "/admin/%2e%2e;/public/a", "/public/\xe4",
    ],
)  # fmt: skip
def test_a_path_with_two_readings_is_refused_for_everybody(proxied: Proxied, ada: Person, target: str) -> None:
    before = proxied.guarded.app.requests
    answer = proxied.get(target, [ada.cookie])
    assert answer.status in {400, 403}, answer
    assert proxied.guarded.app.requests == before


@pytest.mark.parametrize(
    ("target", "matched"),
    [
        ("/public//../admin/x", "/public/admin/x"),
        ("/public/\\..\\admin/x", "/public/admin/x"),
        ("/admin/../public/%61?b=%2f", "/public/a?b=%2f"),
        ("/admin/..;/public/a", "/public/a"),
        ("http://app.example.org/public/a", "/public/a"),
    ],
)
def test_the_app_gets_the_path_that_was_matched(proxied: Proxied, target: str, matched: str) -> None:
    assert proxied.get(target).json["target"] == matched


@pytest.mark.parametrize("method", ["get", "Get", "post"])
def test_a_method_is_what_it_is_and_not_another_in_capitals(proxied: Proxied, ada: Person, method: str) -> None:
    before = proxied.guarded.app.requests
    assert proxied.get("/admin/x", [ada.cookie], method=method).status in {400, 403}
    assert proxied.get("/public/x", method=method).status in {400, 403}
    assert proxied.guarded.app.requests == before


def test_what_a_client_says_of_method_and_path_in_headers_is_not_heard(proxied: Proxied) -> None:
    person = proxied.guarded.log_in()
    for prefix in ("x-forwarded", "x-original"):
        headers = [(f"{prefix}-method", "GET"), (f"{prefix}-uri", "/public/a"), ("x-http-method-override", "GET")]
        assert _refusal(proxied.get("/admin/x", [*headers, person.cookie])) == (403, "ROLE_MISSING")


def test_a_large_body_passes_untouched_in_both_framings(proxied: Proxied, ada: Person) -> None:
    body = os.urandom(1024) * (16 * 1024)
    said = proxied.get("/app/upload", [ada.cookie], method="POST", body=body).json
    assert (said["length"], said["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    parts = (body[:65_536], body[65_536:131_072], b"")
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    with Connection(proxied.port, source=PROXY) as connection:
        connection.send("POST", "/app/upload", [*FROM_BROWSER, ada.cookie, ("transfer-encoding", "chunked")])
        connection.socket.sendall(chunked)
        said = connection.receive("POST").json
    assert (said["length"], said["sha256"]) == (131_072, hashlib.sha256(body[:131_072]).hexdigest())


def _open_websocket(port: int, headers: Headers) -> tuple[socket.socket, bytes]:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    connection = Connection(port, source=PROXY)
    connection.send(
        "GET", "/app/socket",
        [
            *FROM_BROWSER, *headers, ("connection", "Upgrade"), ("upgrade", "websocket"),
            ("sec-websocket-version", "13"), ("sec-websocket-key", key),
        ],
    )  # fmt: skip
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.socket.recv(4096)
        assert data, head
        head += data
    if b" 101 " in head:
        assert f"sec-websocket-accept: {websocket_accept(key)}".encode() in head.lower().replace(
            websocket_accept(key).lower().encode(), websocket_accept(key).encode()
        )
    return connection.socket, head


def test_a_websocket_opens_with_a_session_and_its_bytes_pass_untouched(proxied: Proxied, ada: Person) -> None:
    connection, head = _open_websocket(proxied.port, [ada.cookie])
    assert head.startswith(b"HTTP/1.1 101 ")
    with connection:
        sent = os.urandom(200_000)
        received = head.partition(b"\r\n\r\n")[2]
        for start in range(0, len(sent), 20_000):
            connection.sendall(sent[start : start + 20_000])
            while len(received) < start + 20_000:
                received += connection.recv(65_536)
        assert received == sent


def test_a_websocket_does_not_open_without_a_session(proxied: Proxied) -> None:
    connection, head = _open_websocket(proxied.port, [])
    connection.close()
    assert head.startswith(b"HTTP/1.1 401 ")


def test_a_revoke_ends_what_a_kept_connection_may_do(proxied: Proxied) -> None:
    person = proxied.guarded.log_in()
    with Connection(proxied.port, source=PROXY) as connection:
        for _ in range(3):
            assert connection.exchange("GET", "/app/x", [*FROM_BROWSER, person.cookie]).status == 200
        proxied.guarded.revoke(person)
        answer = connection.exchange("GET", "/app/x", [*FROM_BROWSER, person.cookie])
        assert _refusal(answer) == (401, "REVOKED")
        assert connection.exchange("GET", "/public/x").status == 200


def test_the_access_log_says_what_was_decided_and_holds_no_session_id(proxied: Proxied, ada: Person) -> None:
    proxied.get(f"/app/logged-pass?session_id={ada.session_id}", [ada.cookie])
    proxied.get(f"/admin/logged-refusal?session_id={ada.session_id}", [("referer", f"/?s={ada.session_id}")])
    passed, refused = proxied.logged("/app/logged-pass"), proxied.logged("/admin/logged-refusal")
    assert (passed["rule"], passed["session_handle"], passed["user_id"], passed["status"]) == (
        "everything", ada.handle, ada.user.id, 200,
    )  # fmt: skip
    assert (refused["rule"], refused["reason"], refused["status"]) == ("admin", "SESSION_MISSING", 401)
    for log in (proxied.envoy.access_log, proxied.envoy.log, proxied.guarded.sidecar.log):
        assert "sess_" not in log.read_text()


def test_a_sidecar_that_is_gone_closes_the_app_and_opens_it_when_it_is_back(proxied: Proxied, ada: Person) -> None:
    sidecar = proxied.guarded.sidecar
    sidecar.kill()
    try:
        for target in ("/app/x", "/public/x", "/", "/nowhere"):
            assert proxied.get(target, [ada.cookie]).status == 503
    finally:
        sidecar.start()
    proxied.guarded.wait_for_lease()
    deadline = time.monotonic() + CALL_SECONDS
    while proxied.get("/app/x", [ada.cookie]).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_cannot_be_known_is_503_with_a_time_to_ask_again(run_dir: Path, proxied: Proxied, ada: Person) -> None:
    del run_dir
    unseen = proxied.guarded.log_in()
    proxied.guarded.flowless.kill()
    try:
        time.sleep(2.1)  # the lease, which ends by itself
        for target, person in (("/app/x", unseen), ("/app/x", ada), ("/", ada)):
            answer = proxied.get(target, [person.cookie])
            assert (answer.status, answer.json["reason"]) == (503, "UPSTREAM_UNAVAILABLE")
            assert answer.header("retry-after") == "1"
            assert answer.header("cache-control") == "no-store"
        assert proxied.get("/", []).status == 200
        assert proxied.get("/public/x", [ada.cookie]).status == 200
    finally:
        proxied.guarded.flowless.start()
