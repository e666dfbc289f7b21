"""`python -m tools.pair`: a real pair for the tests and examples of clients in any language.

Starts Flowless and a sidecar in a temporary directory, registers two users, logs the first in, and prints one line of
JSON about it all to standard output. Then it carries out the commands that it reads from standard input, one a line,
and answers each with a line of JSON when it is done: `{"done": COMMAND}`, or `{"error": TEXT}`. When its input ends
it ends both programs and removes what it made.

The session id goes over standard output only. Password hashes are cheap (`TESTING`): never for production.
"""

import argparse
import json
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import grpc

from tools.lease import wait_for_lease
from tools.processes import (
    TESTING,
    FlowlessProcess,
    ProcessError,
    SidecarProcess,
    exit_on_sigterm,
    free_port,
    temporary_directory,
)
from trustlayer.v1 import identity_pb2, session_pb2, types_pb2
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub
from trustlayer.v1.validator_pb2_grpc import ValidatorServiceStub

CALL_SECONDS: Final = 10.0
LOGIN: Final = "ada@example.org"
OTHER_LOGIN: Final = "grace@example.org"
BROWSER: Final = types_pb2.RequestContext(
    client_ip="127.0.0.1", device_fingerprint="pair-device", user_agent="Mozilla/5.0 (pair)"
)
"""From loopback, so that a test that sends HTTP to its app comes from the address that was bound at login."""


def arguments_of(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.pair", description=__doc__)
    parser.add_argument(
        "--sidecar-config", type=Path, help="the sidecar's TOML file, for example with rules of routes"
    )
    parser.add_argument(
        "--role", action="append", default=[], help="a role of the first user; may be repeated (none: `reader`)"
    )
    parser.add_argument("--max-staleness", type=float, default=2.0, help="the sidecar's bound, in seconds (2)")
    return parser.parse_args(arguments)


def prepare(socket: str, *, roles: Sequence[str], password: str) -> session_pb2.LoginResponse:
    """Wait for the sidecar's lease, register both users and log the first one in."""
    with grpc.insecure_channel(socket) as channel:
        wait_for_lease(ValidatorServiceStub(channel))
        for login, name, has in ((LOGIN, "Ada", roles or ["reader"]), (OTHER_LOGIN, "Grace", [])):
            IdentityServiceStub(channel).RegisterUser(
                identity_pb2.RegisterUserRequest(email=login, password=password, name=name, roles=has),
                timeout=CALL_SECONDS,
            )
        request = session_pb2.LoginRequest(login=LOGIN, password=password, context=BROWSER, device_name="pair")
        return SessionServiceStub(channel).Login(request, timeout=CALL_SECONDS)


def commands(flowless: FlowlessProcess, sidecar: SidecarProcess) -> Mapping[str, Callable[[], object]]:
    """List what may be asked for while both run. A start has ended when the program serves."""

    def restart() -> None:
        sidecar.stop()
        sidecar.start()

    return {
        "restart-sidecar": restart,
        "stop-sidecar": sidecar.stop,
        "start-sidecar": sidecar.start,
        "pause-sidecar": lambda: sidecar.signal(signal.SIGSTOP),
        "resume-sidecar": lambda: sidecar.signal(signal.SIGCONT),
        "stop-flowless": flowless.stop,
        "start-flowless": flowless.start,
    }


def wake(sidecar: SidecarProcess) -> None:
    """Let a paused sidecar go on: it would not notice that it is told to end."""
    if sidecar.is_running:
        sidecar.signal(signal.SIGCONT)


def say(line: Mapping[str, object]) -> None:
    """Print a line of JSON at once."""
    print(json.dumps(line), flush=True)


def serve(directory: Path, arguments: argparse.Namespace) -> None:
    """Start both, say so, and do what standard input says until it ends. Raises `ProcessError`."""
    more = {"BRIDGE_SIDECAR_CONFIG": str(arguments.sidecar_config.resolve())} if arguments.sidecar_config else {}
    with ExitStack() as stack:
        # A port of its own, which it has again after a restart.
        flowless = FlowlessProcess(directory=directory, listen=f"127.0.0.1:{free_port()}", environment=TESTING)
        stack.enter_context(flowless)
        flowless.create_signing_keys()
        sidecar = SidecarProcess(
            directory=directory,
            upstream=flowless.address,
            secret=flowless.create_bridge("pair-sidecar").secret,
            max_staleness_seconds=arguments.max_staleness,
            environment=more,
        )
        stack.enter_context(sidecar)
        stack.callback(wake, sidecar)
        password = secrets.token_urlsafe(18)
        login = prepare(sidecar.address, roles=arguments.role, password=password)
        say(
            {
                "socket": str(sidecar.socket),
                "session_id": login.session_id,
                "login": LOGIN,
                "other_login": OTHER_LOGIN,
                "password": password,
                "client_ip": BROWSER.client_ip,
                "device_fingerprint": BROWSER.device_fingerprint,
                "user_agent": BROWSER.user_agent,
            }
        )
        known = commands(flowless, sidecar)
        for line in sys.stdin:
            carry_out(line.strip(), known)


def carry_out(command: str, known: Mapping[str, Callable[[], object]]) -> None:
    """Do one command, and answer it."""
    if command not in known:
        say({"error": f"unknown command; known are {', '.join(known)}"})
        return
    try:
        known[command]()
    except (ProcessError, RuntimeError) as error:
        say({"error": f"{command}: {error}"})
    else:
        say({"done": command})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until standard input ends; return the exit code."""
    exit_on_sigterm()
    parsed = arguments_of(sys.argv[1:] if arguments is None else arguments)
    with temporary_directory() as directory:
        try:
            serve(directory, parsed)
        except KeyboardInterrupt:
            return 130
        except ProcessError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except grpc.RpcError as error:
            print(f"error: the users cannot be made: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
