"""The sidecar as a real process: its one line, its exit codes, its commands, its end."""

import asyncio
import json
import os
import signal
import socket
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
from tests.support.kubelet import grpc_probe
from tests.support.scripted_flowless import ScriptedFlowless
from tests.support.sidecar import CONTEXT, new_id, new_secret
from tools.processes import ROOT, free_port
from trustlayer.v1 import validator_pb2, validator_pb2_grpc

pytestmark = pytest.mark.long

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
        try:
            async with asyncio.timeout(30):
                out, err = await self.process.communicate()
        except TimeoutError:
            # Left running, it would fail the tests after this one.
            self.process.kill()
            await self.process.communicate()
            raise
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
            while json.loads((await served.command("status", "--json"))[1])["leaseHeld"]:
                pass
        assert (await served.command("healthcheck"))[0] == OK, "to fail closed is an answer"
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
        assert (code, json.loads(out)["healthy"]) == (DENIED, False)
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


async def test_probes_on_a_port_of_their_own_tell_life_from_readiness(run_dir: Path) -> None:
    health = f"127.0.0.1:{free_port()}"
    async with _served(run_dir, start_flowless=False, HEALTH_LISTEN=health, LAME_DUCK_SECONDS="60") as served:

        async def says(service: str, *, healthy: bool) -> None:
            async with asyncio.timeout(30):
                while await asyncio.to_thread(grpc_probe, health, service) is not healthy:
                    await asyncio.sleep(0.05)

        await says("liveness", healthy=True)
        await says("readiness", healthy=False)
        await served.flowless.start()
        await says("readiness", healthy=True)
        await served.flowless.stop()
        async with asyncio.timeout(30):
            while json.loads((await served.command("status", "--json"))[1])["leaseHeld"]:
                pass
        assert await asyncio.to_thread(grpc_probe, health, ""), "to fail closed is an answer"
        served.process.send_signal(signal.SIGHUP)
        await says("readiness", healthy=False)
        await says("liveness", healthy=True)
        code, _, err = await served.command("healthcheck")
        assert (code, err) == (DENIED, "not healthy: no lease was held yet, or it drains\n")
        # As long as it is a lame duck, apps find it on the socket.
        assert (await served.command("healthcheck", "--liveness"))[0] == OK
        assert (await served.command("check", "-", stdin="rubbish"))[0] == DENIED
        assert (await served.end())[0] == 128 + signal.SIGTERM, "a second signal ends it at once"


async def test_a_port_for_probes_that_is_taken_ends_the_start(run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        code, out, err = await _run(
            "serve", SECRET=new_secret(), SOCKET_PATH=str(run_dir / "s" / "b.sock"), HEALTH_LISTEN=taken
        )
    assert (code, out) == (CONFIG, "")
    assert f"health_listen: cannot listen on {taken}" in err
    assert not (run_dir / "s" / "b.sock").exists()


async def test_a_sidecar_may_be_ready_before_its_first_lease_if_the_operator_says_so(run_dir: Path) -> None:
    async with _served(run_dir, start_flowless=False, READY_WITHOUT_LEASE="true") as served:
        await served.healthy()
        assert not json.loads((await served.command("status", "--json"))[1])["leaseHeld"]


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_sidecar_whose_socket_is_taken_from_it_ends_to_be_started_anew(run_dir: Path, how: str) -> None:
    async with _served(run_dir) as served:
        await served.healthy()
        served.socket.unlink()
        if how == "replaced":
            served.socket.touch()
        assert (await served.command("healthcheck", "--liveness"))[0] == DENIED
        async with asyncio.timeout(30):
            await served.process.wait()
        code, _, err = await served.end()
        assert code == DENIED
        assert "was removed or replaced" in err
        assert served.socket.exists() == (how == "replaced"), "what others put there is not ours to remove"


async def test_a_healthcheck_does_not_wait_longer_than_it_may(run_dir: Path) -> None:
    path = run_dir / "deaf.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        code, _, err = await _run("healthcheck", "--liveness", "--socket", str(path), "--timeout", "0.2")
        assert (code, err) == (DENIED, "not healthy: no answer in time\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + bytes(8),
        b"\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08",
        b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x88",
        b"\x00\x00\x07\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x02\x08\x02",
    ],
    ids=["http/1.1", "nothing", "settings only", "go away", "reset", "trailers only", "not serving"],
)
async def test_what_does_not_say_serving_is_not_healthy(run_dir: Path, answer: bytes) -> None:
    path = run_dir / "odd.sock"

    async def answers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(answers, path):
        code, out, _ = await _run("healthcheck", "--socket", str(path), "--json")
    assert (code, json.loads(out)["healthy"]) == (DENIED, False)


async def test_the_exec_probe_loads_neither_grpc_nor_the_settings(run_dir: Path) -> None:
    async with _served(run_dir) as served:
        await served.healthy()
        code = (
            "import sys; sys.argv[1:] = ['healthcheck', '--socket', sys.argv[1]]\n"
            "from bridge_sidecar.__main__ import main\n"
            "assert main() == 0\n"
            "print([name for name in ('grpc', 'google.protobuf', 'bridge_sidecar.config') if name in sys.modules])"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(served.socket), cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate()
        assert out.decode().splitlines() == ["healthy: it answers", "[]"]


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
        async with asyncio.timeout(30):
            assert await served.process.wait() == OK


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
