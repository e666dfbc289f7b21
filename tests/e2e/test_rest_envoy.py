"""REST, JSON and gRPC-Web through a real Envoy with the shipped configuration."""

import base64
import json
import os
import re
import shutil
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message

from flowless.domain.bridges import Scope
from tests.support.certificates import self_signed
from tests.support.flowless import PASSWORD, Client, Flowless, fresh_email, running_flowless
from tests.support.http_client import Answer, exchange
from tests.support.rest import JSON, SHIPPED, Gateway, bearer, running_gateway
from tools.processes import ROOT, TESTING, FlowlessProcess, temporary_directory
from trustlayer.v1 import bridge_pb2, session_pb2, types_pb2

ORIGIN = "https://app.example.org"
CLIENT = {"clientIp": "203.0.113.7", "userAgent": "agent"}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with (
        temporary_directory() as directory,
        running_flowless(directory) as flowless,
        running_gateway(directory, flowless) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Client:
    return gateway.flowless.client


def _login(gateway: Gateway) -> Any:
    user = gateway.rest("POST", "/v1/users", {"email": fresh_email(), "password": PASSWORD}).json["user"]
    answer = gateway.rest(
        "POST", "/v1/sessions:login", {"login": user["email"], "password": PASSWORD, "context": CLIENT}
    )
    assert answer.status == 200
    return answer.json


def _reason(answer: Answer) -> str:
    """The reason of an error of ours, which is google.rpc.Status."""
    infos = [detail for detail in answer.json["details"] if detail["@type"].endswith("google.rpc.ErrorInfo")]
    return str(infos[0]["reason"])


def _validate(gateway: Gateway, session_id: str, **fields: Any) -> Any:
    answer = gateway.rest("POST", "/v1/sessions:validate", {"sessionId": session_id, **fields})
    assert answer.status == 200
    return answer.json


def test_a_function_registers_logs_in_validates_and_logs_out_with_json(gateway: Gateway) -> None:
    login = _login(gateway)
    session_id, handle = login["sessionId"], login["session"]["handle"]
    mode = {"mode": "VALIDATION_MODE_STANDARD", "context": CLIENT}
    active = _validate(gateway, session_id, **mode)["active"]["session"]
    assert active["handle"] == handle
    elsewhere = {"clientIp": "198.51.100.9"}
    denied = _validate(gateway, session_id, mode="VALIDATION_MODE_STANDARD", context=elsewhere)
    assert denied["denial"]["reason"] == "DENIAL_REASON_IP_MISMATCH"
    out = gateway.rest("POST", "/v1/sessions:logout", {"session_id": session_id})
    assert out.status == 200
    assert _validate(gateway, session_id, **mode)["denial"]["reason"] == "DENIAL_REASON_REVOKED"


def test_paths_queries_and_bodies_all_reach_the_fields_of_the_rpc(gateway: Gateway, client: Client) -> None:
    user = client.register()
    login = client.log_in(user)
    shown = gateway.rest("GET", f"/v1/users/{user.id}")
    assert shown.json["user"]["email"] == user.email
    changed = gateway.rest("PATCH", f"/v1/users/{user.id}?update_mask=name", {"name": "Ann", "lastName": "ignored"})
    assert (changed.json["user"]["name"], "lastName" in changed.json["user"]) == ("Ann", False)
    page = gateway.rest("GET", f"/v1/users/{user.id}/sessions?page_size=10").json
    assert [session["handle"] for session in page["sessions"]] == [login.session.handle]
    assert gateway.rest("POST", f"/v1/sessions/{login.session.handle}:revoke", {}).status == 200
    assert client.denial(login.session_id) == "REVOKED"
    assert gateway.rest("DELETE", f"/v1/users/{user.id}").status == 200
    assert _reason(gateway.rest("GET", f"/v1/users/{user.id}")) == "USER_NOT_FOUND"


def test_errors_are_json_with_our_reason_and_the_status_that_belongs_to_their_code(gateway: Gateway) -> None:
    wrong = {"login": "nobody@example.org", "password": "not this one", "context": CLIENT}
    refused = gateway.rest("POST", "/v1/sessions:login", wrong)
    assert (refused.status, _reason(refused)) == (401, "LOGIN_REFUSED")
    assert refused.header("trustlayer-reason") == "LOGIN_REFUSED"
    invalid = gateway.rest("POST", "/v1/sessions:login", {"login": "x"})
    assert (invalid.status, _reason(invalid)) == (400, "INVALID_FIELD")
    violations = next(d for d in invalid.json["details"] if d["@type"].endswith("BadRequest"))["fieldViolations"]
    assert {violation["field"] for violation in violations} == {"password", "context.client_ip"}
    unknown = gateway.rest("GET", "/v1/users/usr_0000000000000000000000")
    assert (unknown.status, _reason(unknown)) == (404, "USER_NOT_FOUND")


def test_a_caller_without_a_good_credential_or_its_scope_is_refused(gateway: Gateway, client: Client) -> None:
    _, secret = client.create_bridge(Scope.VALIDATE)
    found = [
        (answer.status, _reason(answer))
        for answer in (
            gateway.call("POST", "/v1/sessions:validate", {}),
            gateway.call("POST", "/v1/sessions:validate", {}, bearer("x")),
            gateway.call("POST", "/v1/sessions:validate", {}, [("x-bridge-secret", secret)]),
            gateway.rest("GET", "/v1/users", secret=secret),
        )
    ]
    assert found == [
        (401, "BRIDGE_CREDENTIAL_MISSING"),
        (401, "BRIDGE_CREDENTIAL_REFUSED"),
        (401, "BRIDGE_CREDENTIAL_MISSING"),
        (403, "SCOPE_MISSING"),
    ]


CLOSED = [
    ("POST", "/trustlayer.v1.AdminService/ListBridges", "application/grpc-web+proto"),
    ("POST", "/trustlayer.v1.AdminService/ListBridges", "application/grpc"),
    ("POST", "/trustlayer.v1.AdminService/ListBridges", "application/json"),
    ("POST", "/trustlayer.v1.BridgeService/WatchRevocations", "application/grpc-web+proto"),
    ("POST", "/trustlayer.v1.BridgeService/PrewarmSessions", "application/grpc"),
    ("POST", "/trustlayer.v1.IdentityService/ImportUsers", "application/grpc"),
    ("POST", "/trustlayer.pubflow.v1.PubflowService/GetMe", "application/grpc-web+proto"),
    ("POST", "/grpc.health.v1.Health/Check", "application/grpc-web+proto"),
    ("POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "application/grpc"),
    ("GET", "/v1/bridges", "application/json"),
    ("GET", "/", "application/json"),
]


@pytest.mark.parametrize(("method", "path", "content"), CLOSED)
def test_administration_streams_and_whatever_has_no_rule_cannot_be_reached(
    gateway: Gateway, method: str, path: str, content: str
) -> None:
    before = gateway.flowless.log_text
    headers = [("content-type", content), ("x-grpc-web", "1"), *bearer(gateway.flowless.client.secret)]
    answer = exchange(gateway.port, method, path, headers, b"{}" if content.endswith("json") else _frame(b""))
    # A local reply to a gRPC call is 200 with grpc-status in a header.
    assert answer.status == 404 or answer.header("grpc-status") == "12", answer
    assert gateway.flowless.log_text == before


def test_what_envoy_itself_refuses_is_json_of_the_same_form(gateway: Gateway) -> None:
    secret = gateway.flowless.client.secret
    unknown = gateway.rest("GET", "/v1/nothing")
    misspelt = gateway.rest("GET", "/v1/users?page_sise=1")
    broken = exchange(gateway.port, "POST", "/v1/sessions:login", [JSON, *bearer(secret)], b'{"login": ')
    twice = gateway.rest("POST", "/v1/users/usr_1:disable", {"userId": "usr_2"})
    for answer, status, code in ((unknown, 404, 5), (misspelt, 400, 3), (broken, 400, 3), (twice, 400, 3)):
        assert (answer.status, answer.json["code"]) == (status, code), answer
        assert answer.header("content-type") == "application/json"


def test_bodies_and_headers_beyond_the_limits_are_refused_before_flowless(gateway: Gateway) -> None:
    large = gateway.rest("POST", "/v1/sessions:login", {"login": "x" * 70_000})
    assert (large.status, large.json["code"]) == (413, 3)
    wide = gateway.call("GET", "/v1/users", None, [("x-large", "x" * 20_000)])
    assert wide.status == 431
    many = gateway.call("GET", "/v1/users", None, [(f"x-header-{i}", "x") for i in range(80)])
    assert many.status == 431
    underscored = gateway.call("GET", "/v1/users", None, [("x_bridge_secret", "x")])
    assert underscored.status == 400


@pytest.mark.parametrize("path", ["/v1/x/../users", "//v1//users", "/v1/./users"])
def test_a_path_has_one_reading(gateway: Gateway, path: str) -> None:
    assert gateway.rest("GET", path).status == 200


def test_an_escaped_slash_is_refused(gateway: Gateway) -> None:
    assert gateway.rest("GET", "/v1%2Fusers").status == 400


# ---- gRPC-Web ----


def _frame(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def _web(gateway: Gateway, path: str, request: Message) -> Answer:
    """What `fetch` sends for a call of gRPC-Web."""
    content = [("content-type", "application/grpc-web+proto"), ("x-grpc-web", "1")]
    credential = bearer(gateway.flowless.client.secret)
    body = _frame(request.SerializeToString())
    return exchange(gateway.port, "POST", path, [*content, *credential], body)


def _frames(body: bytes) -> tuple[list[bytes], dict[str, str]]:
    """Messages and trailers of an answer."""
    messages: list[bytes] = []
    trailers: dict[str, str] = {}
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        data, body = body[5 : 5 + length], body[5 + length :]
        if flags & 0x80:
            lines = data.decode().split("\r\n")
            trailers = dict(line.split(":", 1) for line in lines if line)
        else:
            messages.append(data)
    return messages, trailers


def test_a_browser_logs_in_and_validates_with_grpc_web(gateway: Gateway, client: Client) -> None:
    user = client.register()
    context = types_pb2.RequestContext(client_ip="203.0.113.7")
    request = session_pb2.LoginRequest(login=user.email, password=PASSWORD, context=context)
    (message,), trailers = _frames(_web(gateway, "/trustlayer.v1.SessionService/Login", request).body)
    assert trailers["grpc-status"].strip() == "0"
    session_id = session_pb2.LoginResponse.FromString(message).session_id
    validation = bridge_pb2.ValidateSessionRequest(session_id=session_id)
    answer = _web(gateway, "/trustlayer.v1.BridgeService/ValidateSession", validation)
    (message,), _ = _frames(answer.body)
    assert bridge_pb2.ValidateSessionResponse.FromString(message).active.session.user.id == user.id


def test_an_error_of_grpc_web_has_its_code_and_reason(gateway: Gateway) -> None:
    context = types_pb2.RequestContext(client_ip="203.0.113.7")
    request = session_pb2.LoginRequest(login="nobody@example.org", password="not this one", context=context)
    answer = _web(gateway, "/trustlayer.v1.SessionService/Login", request)
    said = dict(answer.headers) | _frames(answer.body)[1]
    assert said["grpc-status"].strip() == str(grpc.StatusCode.UNAUTHENTICATED.value[0])
    assert said["trustlayer-reason"].strip() == "LOGIN_REFUSED"
    assert b"LOGIN_REFUSED" in base64.b64decode(said["grpc-status-details-bin"].strip() + "==")


def test_no_other_origin_may_read_answers_unless_it_is_configured(gateway: Gateway) -> None:
    preflight = gateway.call(
        "OPTIONS", "/v1/users", None, [("origin", ORIGIN), ("access-control-request-method", "POST")]
    )
    answer = gateway.call("GET", "/v1/users", None, [("origin", ORIGIN), *bearer(gateway.flowless.client.secret)])
    for found in (preflight, answer):
        assert not any(name.startswith("access-control-") for name, _ in found.headers)
    assert preflight.status != 200


def test_an_origin_that_is_named_may_and_no_other(gateway: Gateway) -> None:
    """The shipped configuration with its own lines about CORS switched on."""
    cors = _switched_on("                      # typed_per_filter_config:", "                      routes:")
    with (
        temporary_directory() as directory,
        running_gateway(directory, gateway.flowless, replace=cors) as open_to_one,
    ):
        for origin, allowed in ((ORIGIN, ORIGIN), ("https://evil.example.org", None), ("null", None)):
            wish = [("origin", origin), ("access-control-request-method", "POST")]
            preflight = open_to_one.call("OPTIONS", "/v1/sessions:login", None, wish)
            assert preflight.header("access-control-allow-origin") == allowed
            assert preflight.header("access-control-allow-credentials") is None
            answer = open_to_one.call("GET", "/v1/users", None, [("origin", origin)])
            assert answer.header("access-control-allow-origin") == allowed


def _switched_on(start: str, end: str, **words: str) -> dict[str, str]:
    """The commented lines between two texts of the shipped file, without the marks, and with other words."""
    text = (SHIPPED / "flowless-rest.yaml").read_text()
    first = text.index(f"\n{start}") + 1
    commented = text[first : text.index(f"\n{end}", first)]
    lines = re.sub(r"(?m)^( *)# ", r"\1", commented)
    for shipped, used in words.items():
        assert shipped in lines
        lines = lines.replace(shipped, used)
    return {commented: lines}


def test_both_sides_speak_tls_with_the_lines_that_are_shipped(run_dir: Path) -> None:
    certificate = run_dir / "localhost.crt"
    key, _ = self_signed(certificate)
    key_file = run_dir / "localhost.key"
    key_file.write_bytes(key)
    environment = {"FLOWLESS_TLS_CERT_FILE": str(certificate), "FLOWLESS_TLS_KEY_FILE": str(key_file)}
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    replace = {
        **_switched_on(
            "          # transport_socket:",
            "          filters:",
            **{"/etc/envoy/tls.crt": str(certificate), "/etc/envoy/tls.key": str(key_file)},
        ),
        **_switched_on(
            "      # transport_socket:",
            "      load_assignment:",
            **{"/etc/envoy/ca.crt": str(certificate), "flowless.example.org": "localhost"},
        ),
    }
    process = FlowlessProcess(directory=run_dir, environment={**TESTING, **environment})
    with process, grpc.secure_channel(f"localhost:{process.address.rpartition(':')[2]}", credentials) as channel:
        secret = process.create_bridge("everything", [scope.name.lower() for scope in Scope]).secret
        flowless = Flowless(process=process, file=run_dir / "flowless.db", client=Client(channel, secret))
        with (
            running_gateway(run_dir, flowless, replace=replace) as gateway,
            httpx.Client(verify=ssl.create_default_context(cafile=str(certificate)), trust_env=False) as web,
        ):
            url = f"https://localhost:{gateway.port}/v1/users"
            answer = web.get(url, headers={"authorization": f"Bearer {secret}"})
            assert (answer.status_code, answer.json()) == (200, {})


# ---- the document ----


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_document_run_as_they_stand_there(gateway: Gateway, tmp_path: Path) -> None:
    (commands,) = re.findall(r"(?s)```sh\n(.*?)```", (ROOT / "docs" / "operations" / "rest.md").read_text())
    secret_file = tmp_path / "secret"
    secret_file.write_text(gateway.flowless.client.create_bridge(Scope.VALIDATE, Scope.IDENTITY, Scope.SESSIONS)[1])
    environment = {"REST": f"http://127.0.0.1:{gateway.port}", "SECRET_FILE": str(secret_file)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env={**os.environ, **environment, "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    decoder = json.JSONDecoder()
    answers, rest = [], done.stdout
    while rest:
        answer, end = decoder.raw_decode(rest)
        answers.append(answer)
        rest = rest[end:]
    registered, validated, logged_out = answers
    assert registered["user"]["name"] == "Grace"
    assert validated["active"]["session"]["user"] == registered["user"]
    assert int(logged_out["revision"]) > 0


# ---- outages and logs ----


def test_a_database_that_is_locked_is_unavailable_and_no_refusal(gateway: Gateway) -> None:
    with gateway.flowless.locked_database():
        body = {"email": fresh_email(), "password": PASSWORD}
        answer = gateway.rest("POST", "/v1/users", body)
    assert (answer.status, _reason(answer)) == (503, "STORAGE_UNAVAILABLE")


def test_neither_log_ever_holds_a_session_id_a_password_or_a_bridge_secret(gateway: Gateway) -> None:
    with temporary_directory() as directory, running_gateway(directory, gateway.flowless) as watched:
        session_id = _login(watched)["sessionId"]
        _validate(watched, session_id)
        watched.rest("GET", f"/v1/users?session_id={session_id}&x=1")
        carriers = [("cookie", f"session_id={session_id}"), ("referer", f"/?s={session_id}")]
        watched.call("GET", "/v1/users", None, carriers)
        watched.rest("GET", f"/v1/nothing?token={session_id}")
        watched.envoy.stop()  # which writes what it has not written yet
        logs = watched.logs
        secrets = (session_id, PASSWORD, watched.flowless.client.secret, watched.secret_file.read_text())
    assert '"path":"/v1/sessions:validate"' in logs
    assert [secret for secret in secrets if secret in logs] == []
