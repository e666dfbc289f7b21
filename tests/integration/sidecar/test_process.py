"""The sidecar as a real process: its one line, its exit codes, its commands, its end."""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.certificates import self_signed
from tests.support.scripted_flowless import ScriptedFlowless
from tests.support.sidecar import CONTEXT, new_id, new_secret
from tools.processes import free_port
from trustlayer.v1 import validator_pb2, validator_pb2_grpc

Finished = tuple[int, str, str]
OK, DENIED, USAGE, UNAVAILABLE, CONFIG = range(5)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("BRIDGE_SIDECAR_")}
    return inherited | {f"BRIDGE_SIDECAR_{key}": value for key, value in variables.items()}


async def _spawn(*arguments: str, **variables: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bridge_sidecar",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(variables),
    )


async def _run(*arguments: str, stdin: str = "", **variables: str) -> Finished:
    process = await _spawn(*arguments, **variables)
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


class Served:
    """A running sidecar process, its upstream and its socket."""

    def __init__(
        self, process: asyncio.subprocess.Process, flowless: ScriptedFlowless, socket: Path, secret: str
    ) -> None:
        self.process = process
        self.flowless = flowless
        self.socket = socket
        self.secret = secret

    async def command(self, name: str, *arguments: str, stdin: str = "") -> Finished:
        return await _run(name, *arguments, "--socket", str(self.socket), stdin=stdin)

    async def healthy(self) -> None:
        async with asyncio.timeout(30):
            while (await self.command("healthcheck"))[0] != OK:
                pass

    async def end(self) -> Finished:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def _served(
    directory: Path,
    *,
    start_flowless: bool = True,
    credentials: grpc.ServerCredentials | None = None,
    **variables: str,
) -> AsyncIterator[Served]:
    secret = new_secret()
    flowless = ScriptedFlowless(path=directory / "up.sock", secret=secret)
    if start_flowless:
        await flowless.start(credentials)
    socket = directory / "s" / "bridge.sock"
    process = await _spawn(
        "serve",
        **{"SECRET": secret, "UPSTREAM": flowless.address, "SOCKET_PATH": str(socket), "DRAIN_SECONDS": "2"}
        | variables,
    )
    assert process.stdout is not None
    served = Served(process, flowless, socket, secret)
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        assert line == f"bridge-sidecar listening on unix:{socket}\n", (await served.end())[2]
        yield served
    finally:
        await served.end()
        await flowless.stop()


async def test_a_sidecar_serves_checks_reports_and_ends_in_order(run_dir: Path) -> None:
    async with _served(run_dir) as served:
        await served.healthy()
        session_id = new_id()
        served.flowless.add_session(session_id)
        ip = ("--ip", CONTEXT.client_ip)

        code, out, err = await served.command("check", "-", *ip, "--json", stdin=f"{session_id}\n")
        assert (code, err) == (OK, "")
        answer = json.loads(out)
        assert (answer["active"], answer["freshness"]["tier"]) == (True, "TIER_DATABASE")
        code, out, _ = await served.command("check", session_id, *ip, "--mode", "standard")
        assert code == OK
        assert "ACTIVE" in out
        assert "LRU" in out
        code, out, _ = await served.command("check", session_id, "--ip", "198.51.100.1")
        assert (code, out.split()[:2]) == (DENIED, ["DENIED", "IP_MISMATCH:"])
        code, out, _ = await served.command("check", "rubbish", "--json")
        assert (code, json.loads(out)["denial"]["reason"]) == (DENIED, "DENIAL_REASON_MALFORMED")
        code, out, err = await served.command("check", session_id, "--min-revision", "-1", "--json")
        assert (code, json.loads(out)["error"]["reason"], err) == (USAGE, "INVALID_FIELD", "")
        code, _, err = await served.command("check", session_id, "--min-revision", "7")
        assert code == UNAVAILABLE
        assert "REVISION_NOT_REACHED" in err

        code, out, _ = await served.command("status", "--json")
        status = json.loads(out)
        assert (code, status["leaseHeld"], status["watchState"]) == (OK, True, "WATCH_STATE_LIVE")
        code, out, _ = await served.command("status")
        assert code == OK
        assert "; its ping was sent " in out
        assert ", round trip " in out
        assert "none that can be timed" in out
        assert served.secret not in out
        assert stat.S_IMODE(served.socket.stat().st_mode) == 0o660

        code, out, err = await served.end()
        assert (code, out) == (OK, "")
        assert not served.socket.exists()
        assert served.secret not in err
        assert session_id not in err


async def test_a_check_for_a_granted_route_says_that_its_answer_is_beyond_the_lease(run_dir: Path) -> None:
    rules = run_dir / "rules.toml"
    rules.write_text('[[routes]]\nname = "catalogue"\nserve_beyond_lease_seconds = 300\n')
    async with _served(run_dir, CONFIG=str(rules), MAX_STALENESS_SECONDS="1", UPSTREAM_TIMEOUT_SECONDS="1") as served:
        await served.healthy()
        session_id = new_id()
        served.flowless.add_session(session_id)
        check = ("check", session_id, "--ip", CONTEXT.client_ip)
        assert (await served.command(*check))[0] == OK
        await served.flowless.stop()
        async with asyncio.timeout(30):
            while (await served.command("healthcheck"))[0] == OK:
                pass
        assert (await served.command(*check))[0] == UNAVAILABLE
        code, out, _ = await served.command(*check, "--route", "catalogue")
        assert code == OK
        assert "BEYOND LEASE" in out
        code, out, _ = await served.command("status")
        assert "1 answers, outside the guarantee" in out


RULES = """\
[[routes]]
name = "admin"
match = ["GET /admin/*", "grpc shop.v1.Admin/*"]
mode = "strict"
roles_any = ["support", "admin"]
max_authentication_age_seconds = 900

[[routes]]
name = "rest"
match = ["* /**"]
"""


async def test_a_process_takes_over_rules_that_change_and_keeps_the_old_ones_from_a_bad_file(run_dir: Path) -> None:
    rules = run_dir / "rules.toml"
    rules.write_text(RULES)
    async with _served(run_dir, CONFIG=str(rules)) as served:
        await served.healthy()
        session_id = new_id()
        served.flowless.add_session(session_id)
        check = ("check", session_id, "--ip", CONTEXT.client_ip, "--request")
        assert (await served.command(*check, "GET /orders"))[0] == OK
        code, out, _ = await served.command(*check, "GET /orders;x")
        assert code == DENIED
        assert "ROUTE_NOT_COVERED" in out

        async def status_shows(text: str) -> None:
            async with asyncio.timeout(30):
                while text not in (await served.command("status"))[1]:
                    pass

        rules.write_text(RULES + "[[routes]]\n")
        await status_shows("line 11: routes[2].name: missing")
        assert (await served.command(*check, "GET /orders"))[0] == OK
        rules.write_text(RULES.replace("* /**", "GET /orders/*"))
        async with asyncio.timeout(30):
            while (await served.command(*check, "GET /orders"))[0] == OK:
                pass
        assert (await served.command(*check, "GET /orders/7"))[0] == OK
        code, _, err = await served.end()
        assert code == OK
        assert "rules not replaced" in err
        assert "rules read again" in err


async def test_routes_test_shows_which_rule_wins_and_why(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    code, out, _ = await _run("routes", "test", "GET", "/admin/users?x=1", CONFIG=str(rules))
    assert code == OK
    assert "matches, and wins: GET /admin/*" in out
    lines = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in out.splitlines()}
    assert (lines["mode"], lines["roles_any"]) == ("strict", "admin, support")
    assert lines["max_authentication_age_seconds"] == "900.0"

    code, out, _ = await _run("routes", "test", "POST", "/admin/users", "--config", str(rules))
    assert code == OK
    assert out.splitlines()[1:4] == [
        "  admin  does not match: GET /admin/*",
        "  admin  does not match: grpc shop.v1.Admin/*",
        "  rest   matches, and wins: * /**",
    ]
    code, out, _ = await _run("routes", "test", "grpc", "shop.v1.Admin/Drop", "--json", CONFIG=str(rules))
    assert code == OK
    assert json.loads(out)["rule"]["name"] == "admin"
    code, out, _ = await _run("routes", "test", "GET", "/x/..;/admin/users", CONFIG=str(rules))
    assert code == DENIED
    assert "more than one reading" in out
    assert "ROUTE_NOT_COVERED" in out
    rules.write_text(RULES + 'mode = "x"\n')
    code, _, err = await _run("routes", "test", "GET", "/", CONFIG=str(rules))
    assert code == CONFIG
    assert "line 11: routes[1].mode: must be one of standard, advanced, strict" in err
    assert (await _run("routes", "test", "GET", "/"))[0] == USAGE


async def test_a_process_with_metrics_serves_them(run_dir: Path) -> None:
    port = free_port()
    async with _served(run_dir, METRICS_LISTEN=f"127.0.0.1:{port}") as served:
        await served.healthy()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(30):
            assert b"\nbridge_sidecar_lease_held 1.0\n" in await reader.read()
        writer.close()
        code, _, err = await served.end()
        assert code == OK
        assert f"127.0.0.1:{port}" in err


async def test_a_second_sidecar_is_refused_and_the_first_one_goes_on(run_dir: Path) -> None:
    async with _served(run_dir) as served:
        code, out, err = await _run(
            "serve", SECRET=new_secret(), UPSTREAM=served.flowless.address, SOCKET_PATH=str(served.socket)
        )
        assert (code, out) == (CONFIG, "")
        assert "another process holds" in err
        assert (await served.command("healthcheck", "--liveness"))[0] == OK


async def test_a_killed_sidecars_socket_is_replaced_by_the_next(run_dir: Path) -> None:
    async with _served(run_dir) as served:
        served.process.kill()
        await served.end()
        assert served.socket.exists()
        await served.flowless.stop()
    async with _served(run_dir) as served:
        assert (await served.command("healthcheck", "--liveness"))[0] == OK


async def test_without_flowless_a_sidecar_lives_but_is_not_healthy(run_dir: Path) -> None:
    async with _served(run_dir, start_flowless=False) as served:
        assert (await served.command("healthcheck", "--liveness"))[0] == OK
        code, out, _ = await served.command("healthcheck", "--json")
        assert (code, json.loads(out)) == (DENIED, {"healthy": False, "leaseHeld": False})
        code, _, err = await served.command("check", "-", stdin=new_id())
        assert code == UNAVAILABLE
        assert "UPSTREAM_UNAVAILABLE" in err


async def test_flowless_is_reached_over_tls_and_only_with_a_certificate_that_the_ca_vouches_for(
    run_dir: Path,
) -> None:
    good, other = run_dir / "good.pem", run_dir / "other.pem"
    credentials = grpc.ssl_server_credentials([self_signed(good)])
    self_signed(other)
    async with _served(run_dir, credentials=credentials, UPSTREAM_CA_FILE=str(good)) as served:
        await served.healthy()
    async with _served(run_dir, credentials=credentials, UPSTREAM_CA_FILE=str(other)) as served:
        code, _, err = await served.command("check", "-", stdin=new_id())
        assert code == UNAVAILABLE
        assert "UPSTREAM_UNAVAILABLE" in err
        assert served.flowless.validate_requests == []


async def test_health_is_serving_once_a_lease_was_held(run_dir: Path) -> None:
    async with (
        _served(run_dir, start_flowless=False) as served,
        grpc.aio.insecure_channel(f"unix:{served.socket}") as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="trustlayer.v1.ValidatorService")
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await served.flowless.start()
        async with asyncio.timeout(30):
            while (await health.Check(request)).status != health_pb2.HealthCheckResponse.SERVING:
                await asyncio.sleep(0.02)


async def test_a_call_in_flight_at_sigterm_is_finished(run_dir: Path) -> None:
    async with _served(run_dir, DRAIN_SECONDS="20", UPSTREAM_TIMEOUT_SECONDS="2") as served:
        await served.healthy()
        session_id = new_id()
        served.flowless.add_session(session_id)
        served.flowless.validate_gate.clear()
        async with grpc.aio.insecure_channel(f"unix:{served.socket}") as channel:
            stub = validator_pb2_grpc.ValidatorServiceStub(channel)
            ask = asyncio.ensure_future(
                stub.Validate(validator_pb2.ValidateRequest(session_id=session_id, context=CONTEXT), timeout=20)
            )
            async with asyncio.timeout(20):
                while not served.flowless.validate_requests:
                    await asyncio.sleep(0.01)
            served.process.send_signal(signal.SIGTERM)
            served.flowless.validate_gate.set()
            assert (await ask).HasField("session")
        assert (await served.end())[0] == OK


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "exactly one"),
        ({"SECRET": "hunter2"}, "does not hold a bridge secret"),
        ({"SECRET_FILE": "/x"}, "no such setting"),
        ({"SECRET": "good", "RELAY": "SessionService/Fly"}, "no such method"),
        ({"SECRET": "good", "BRIDGE_SECRET_FILE": "/nowhere"}, "exactly one"),
        ({"BRIDGE_SECRET_FILE": "/nowhere/secret"}, "No such file"),
        ({"SECRET": "good", "SOCKET_PATH": "/nowhere/at/all.sock"}, "does not exist"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_settings_that_cannot_be_used_end_with_code_4_and_say_what_to_do(
    run_dir: Path, variables: dict[str, str], said: str
) -> None:
    secret = new_secret()
    values = {"SOCKET_PATH": str(run_dir / "b.sock")} | {k: v.replace("good", secret) for k, v in variables.items()}
    code, out, err = await _run("serve", **values)
    assert (code, out) == (CONFIG, "")
    assert said in err
    assert "Traceback" not in err
    assert "hunter2" not in err
    assert secret not in err


async def test_a_config_file_is_read(run_dir: Path) -> None:
    file = run_dir / "sidecar.toml"
    file.write_text("max_staleness_seconds = 99\n")
    code, _, err = await _run("serve", "--config", str(file), SECRET=new_secret())
    assert code == CONFIG
    assert "max_staleness_seconds: must be between" in err


async def test_without_a_sidecar_the_commands_say_so(run_dir: Path) -> None:
    socket = ("--socket", str(run_dir / "none.sock"))
    code, _, err = await _run("status", *socket)
    assert (code, "no sidecar answers" in err) == (UNAVAILABLE, True)
    code, out, _ = await _run("check", "-", "--json", *socket, stdin="x")
    assert (code, json.loads(out)["error"]["code"]) == (UNAVAILABLE, "UNAVAILABLE")
    assert (await _run("healthcheck", "--liveness", *socket))[0] == DENIED


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("check",),
        ("check", "-", "--timeout", "0"),
        ("check", "-", "--min-revision", "9" * 20),
        ("serve", "x"),
    ],
)
async def test_a_wrong_command_line_ends_with_code_2(arguments: tuple[str, ...]) -> None:
    assert (await _run(*arguments))[0] == USAGE


async def test_an_id_that_is_not_utf8_is_a_wrong_command_line(run_dir: Path) -> None:
    process = await _spawn("check", "-", "--socket", str(run_dir / "none.sock"))
    await process.communicate(b"\xff\xfe")
    assert process.returncode == USAGE


@pytest.mark.parametrize("arguments", [(), ("serve",), ("check",), ("status",), ("healthcheck",)])
async def test_help_shows_exit_codes(arguments: tuple[str, ...]) -> None:
    code, out, _ = await _run(*arguments, "--help")
    assert code == OK
    assert "exit codes:" in out
