"""The forward-auth endpoint of a running sidecar: its protocol, its limits, its end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge_sidecar import forward_auth
from bridge_sidecar.routes import Rule, SessionNeed
from tests.support.http_client import Answer, Headers, exchange
from tests.support.scripted_flowless import BROWSER
from tests.support.sidecar import Running, new_id, running_sidecar, until
from trust_core.errors import Reason, TrustError
from trust_core.unix_socket import SocketError

RULES = (
    Rule(name="public", patterns=("GET /public",), session=SessionNeed.NONE),
    Rule(name="app", patterns=("* /app/**",)),
)
PUBLIC: Headers = (("x-forwarded-method", "GET"), ("x-forwarded-uri", "/public"))
WIRE = "GET /forward-auth HTTP/1.1\r\nhost: x\r\nx-forwarded-method: GET\r\nx-forwarded-uri: /public\r\n"


@asynccontextmanager
async def serving(run_dir: Path, **settings: Any) -> AsyncIterator[tuple[Running, str]]:
    """A sidecar whose endpoint listens on a Unix socket; gives the socket's path as well."""
    path = str(run_dir / "f" / "f.sock")
    async with running_sidecar(run_dir, routes=RULES, **{"forward_auth_listen": f"unix:{path}", **settings}) as app:
        yield app, path


async def ask(
    address: int | str, headers: Headers, *, method: str = "GET", target: str = forward_auth.PATH
) -> Answer:
    return await asyncio.to_thread(exchange, address, method, target, headers)


def about(method: str, uri: str, session_id: str = "") -> list[tuple[str, str]]:
    headers = [
        ("x-forwarded-method", method), ("x-forwarded-uri", uri), ("x-forwarded-for", BROWSER.client_ip),
        ("x-device-fingerprint", BROWSER.device_fingerprint), ("user-agent", BROWSER.user_agent),
    ]  # fmt: skip
    return [*headers, ("cookie", f"session_id={session_id}")] if session_id else headers


async def test_a_session_passes_with_identity_headers_and_a_revoked_one_does_not(run_dir: Path) -> None:
    async with serving(run_dir) as (app, path):
        session_id = new_id()
        app.flowless.add_session(session_id, roles=("admin",))
        answer = await ask(path, about("POST", "/app/x?y=z", session_id))
        assert (answer.status, answer.body) == (200, b"")
        assert (answer.header("x-user-id"), answer.header("x-user-roles")) == ("usr_1", "admin")
        revision = app.flowless.revoke_session(session_id)
        await until(lambda: app.sidecar.cache.applied_revision >= revision)
        answer = await ask(path, about("POST", "/app/x", session_id))
        assert (answer.status, answer.json["reason"]) == (401, "REVOKED")
        assert answer.header("x-denial-reason") == "REVOKED"
        assert answer.header("x-user-id") is None


async def test_it_listens_on_loopback_as_well(run_dir: Path) -> None:
    async with serving(run_dir, forward_auth_listen="127.0.0.1:0") as (app, _):
        assert app.sidecar.forward_auth is not None
        port = int(app.sidecar.forward_auth.address.rpartition(":")[2])
        assert (await ask(port, PUBLIC)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-forwarded-method", "GET")],
        [("x-forwarded-uri", "/public")],
        [*PUBLIC, ("x-forwarded-uri", "/public")],
        [*PUBLIC, ("x-forwarded-method", "GET")],
        [("x-original-method", "GET"), ("x-original-uri", "/public")],
        [("x-forwarded-method", "GET"), ("x-forwarded-uri", "http://x/public")],
        [("x-forwarded-method", "GET"), ("x-forwarded-uri", "/public\xe4")],
    ],
)
async def test_a_request_that_is_not_named_once_and_clearly_is_refused(run_dir: Path, headers: Headers) -> None:
    async with serving(run_dir) as (_, path):
        answer = await ask(path, headers)
        assert (answer.status, answer.json["reason"]) == (403, "ROUTE_NOT_COVERED")


async def test_the_headers_that_name_the_request_are_the_operators_choice_and_no_others_are_heard(
    run_dir: Path,
) -> None:
    original = [("x-original-method", "GET"), ("x-original-uri", "/public")]
    async with serving(run_dir, forward_auth_request_headers="x-original") as (_, path):
        assert (await ask(path, original)).status == 200
        assert (await ask(path, PUBLIC)).status == 403
        assert (await ask(path, [*about("GET", "/public"), original[0], ("x-original-uri", "/app/x")])).status == 401


@pytest.mark.parametrize("name", ["x-user-id", "X_User_Id", "x-session-handle", "x.user.roles", "x-user-locale"])
async def test_a_request_that_still_holds_an_identity_header_is_refused(run_dir: Path, name: str) -> None:
    async with serving(run_dir) as (_, path):
        answer = await ask(path, [*PUBLIC, (name, "usr_attacker")])
        assert (answer.status, answer.json["reason"]) == (403, "IDENTITY_HEADER_SENT")


async def test_what_cannot_be_known_is_503_with_a_time_to_ask_again(run_dir: Path) -> None:
    async with serving(run_dir) as (app, path):
        app.flowless.validate_error = TrustError(Reason.STORAGE_UNAVAILABLE, "no")
        answer = await ask(path, about("GET", "/app/x", new_id()))
        assert (answer.status, answer.json["reason"], answer.header("retry-after")) == (
            503,
            "STORAGE_UNAVAILABLE",
            "1",
        )


async def test_other_paths_are_not_here(run_dir: Path) -> None:
    async with serving(run_dir) as (_, path):
        for target in ("/", "/forward-auth/", "/public", "//forward-auth"):
            assert (await ask(path, PUBLIC, target=target)).status == 404


async def test_a_question_of_any_method_is_answered_and_head_without_a_body(run_dir: Path) -> None:
    async with serving(run_dir) as (_, path):
        assert (await ask(path, PUBLIC, method="POST")).status == 200
        answer = await ask(path, [], method="HEAD")
        assert (answer.status, answer.body) == (403, b"")
        assert int(answer.header("content-length") or 0) > 0


async def _say(path: str, data: bytes, *, end: bool = False) -> bytes:
    """Send bytes and read until the other side closes."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(data)
        if end:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


async def test_requests_sent_ahead_are_answered_in_their_order(run_dir: Path) -> None:
    async with serving(run_dir) as (_, path):
        wires = [f"{WIRE}\r\n", WIRE.replace("/public", "/nowhere") + "\r\n", f"{WIRE}connection: close\r\n\r\n"]
        said = await _say(path, "".join(wires * 1).encode())
        assert [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:]] == [200, 403, 200]


async def test_a_small_body_is_dropped_and_a_large_one_ends_the_connection(run_dir: Path) -> None:
    async with serving(run_dir) as (_, path):
        small = f"{WIRE}content-length: 5\r\n\r\nhello{WIRE}connection: close\r\n\r\n".encode()
        assert (await _say(path, small)).count(b"HTTP/1.1 200 ") == 2
        large = f"{WIRE}content-length: 100000000\r\n\r\n".encode() + b"x" * 200_000
        try:
            said = await _say(path, large)
        except ConnectionError:
            return  # closed before all of it was sent
        assert said.count(b"HTTP/1.1 200 ") == 1
        assert b"connection: close" in said


async def test_a_body_that_waits_to_be_invited_is_not_waited_for(run_dir: Path) -> None:
    async with serving(run_dir) as (_, path):
        said = await _say(path, f"{WIRE}content-length: 5\r\nexpect: 100-continue\r\n\r\n".encode())
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in said


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /forward-auth HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /forward-auth HTTP/1.1\r\nhost: x\r\nbad name: x\r\n\r\n", b"400"),
        (b"GET /forward-auth HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", b"400"),
        (b"GET /forward-auth HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 2 * forward_auth.MAX_HEAD_BYTES, b"431"),
    ],
)
async def test_what_is_not_http_or_too_long_is_refused_and_the_connection_ends(
    run_dir: Path, data: bytes, status: bytes
) -> None:
    async with serving(run_dir) as (_, path):
        assert (await _say(path, data)).startswith(b"HTTP/1.1 " + status)
        assert (await ask(path, PUBLIC)).status == 200


async def test_a_client_that_dawdles_or_idles_is_let_go(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward_auth, "_REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(forward_auth, "_IDLE_SECONDS", 0.4)
    async with serving(run_dir) as (_, path):
        assert await _say(path, WIRE.encode()) == b""
        assert await _say(path, f"{WIRE}content-length: 5\r\n\r\nhel".encode()) == b""
        assert (await _say(path, f"{WIRE}\r\n".encode())).count(b"HTTP/1.1 ") == 1


async def test_connections_are_bounded_and_a_free_place_can_be_taken(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_auth, "MAX_CONNECTIONS", 2)
    async with serving(run_dir) as (_, path):
        held = [await asyncio.open_unix_connection(path) for _ in range(2)]
        for reader, writer in held:
            writer.write(f"{WIRE}\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await _try(path) == b""
        held[0][1].close()
        while not (said := await _try(path)):
            await asyncio.sleep(0.01)
        assert said.startswith(b"HTTP/1.1 200 ")
        held[1][1].close()


async def _try(path: str) -> bytes:
    try:
        return await _say(path, f"{WIRE}connection: close\r\n\r\n".encode())
    except ConnectionError:
        return b""


async def test_an_answer_under_way_is_finished_at_the_end_and_idle_connections_are_closed(run_dir: Path) -> None:
    async with serving(run_dir) as (app, path):
        session_id = new_id()
        app.flowless.add_session(session_id)
        app.flowless.validate_gate.clear()
        idle, idle_writer = await asyncio.open_unix_connection(path)
        question = asyncio.create_task(ask(path, about("GET", "/app/x", session_id)))
        while not app.flowless.validate_requests:
            await asyncio.sleep(0.01)
        assert app.sidecar.forward_auth is not None
        end = asyncio.create_task(app.sidecar.forward_auth.stop(drain_seconds=10))
        assert await asyncio.wait_for(idle.read(), 10) == b""
        app.flowless.validate_gate.set()
        answer = await question
        assert (answer.status, answer.header("connection")) == (200, "close")
        await end
        idle_writer.close()
        assert not Path(path).exists()


async def test_a_socket_that_another_holds_is_not_taken_from_it(run_dir: Path) -> None:
    async with serving(run_dir) as (app, path):
        gate = app.sidecar.gate
        assert gate is not None
        second = forward_auth.ForwardAuth(listen=f"unix:{path}", request_headers=("a", "b"), gate=gate)
        with pytest.raises(SocketError, match="another process holds"):
            await second.start()
        assert (await ask(path, PUBLIC)).status == 200


async def test_no_log_holds_a_session_id_or_a_path(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(run_dir) as (app, path):
        session_id = new_id()
        app.flowless.add_session(session_id)
        assert (await ask(path, about("GET", f"/app/secret?s={session_id}", session_id))).status == 200
    said = json.dumps(capsys.readouterr())
    assert session_id not in said
    assert "/app/secret" not in said
