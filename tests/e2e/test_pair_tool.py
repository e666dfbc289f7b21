"""`python -m tools.pair` gives tests in other languages a real pair, and does what they ask of it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.support.repository import ROOT
from trustlayer.v1 import session_pb2, types_pb2, validator_pb2
from trustlayer.v1.session_pb2_grpc import SessionServiceStub
from trustlayer.v1.validator_pb2_grpc import ValidatorServiceStub

pytestmark = pytest.mark.long

CALL_SECONDS = 10.0
RULES = """
[[routes]]
name = "admin"
mode = "strict"
roles_all = ["admin"]
"""


class Pair:
    """The tool as a test of another language sees it: lines of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.facts = self._line()

    def ask(self, command: str) -> Mapping[str, str]:
        """Write a command; return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._line()

    def validate(
        self, *, route: str = "", mode: types_pb2.ValidationMode.ValueType = types_pb2.VALIDATION_MODE_STRICT
    ) -> validator_pb2.ValidateResponse:
        """Validate the session that the tool made, over a channel of its own."""
        context = types_pb2.RequestContext(
            **{name: self.facts[name] for name in ("client_ip", "device_fingerprint", "user_agent")}
        )
        request = validator_pb2.ValidateRequest(
            session_id=self.facts["session_id"], context=context, mode=mode, route=route
        )
        with grpc.insecure_channel(f"unix:{self.facts['socket']}") as channel:
            return ValidatorServiceStub(channel).Validate(request, timeout=CALL_SECONDS)

    def _line(self) -> Mapping[str, str]:
        assert self.process.stdout is not None
        line: Mapping[str, str] = json.loads(self.process.stdout.readline())
        return line


@contextmanager
def running_pair(*arguments: str) -> Iterator[Pair]:
    with subprocess.Popen(
        [sys.executable, "-m", "tools.pair", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Pair(process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
        finally:
            process.terminate()


def _code(pair: Pair) -> grpc.StatusCode:
    try:
        pair.validate()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def _wait_for(code: grpc.StatusCode, pair: Pair) -> None:
    deadline = time.monotonic() + 2 * CALL_SECONDS
    while _code(pair) is not code:
        assert time.monotonic() < deadline


@pytest.mark.timeout(300)
def test_a_pair_does_what_its_commands_say_and_leaves_nothing_behind() -> None:
    with running_pair() as pair:
        assert pair.validate().session.user.roles == ["reader"]
        assert "restart-sidecar" in pair.ask("dance")["error"]
        assert "runs already" in pair.ask("start-flowless")["error"]

        assert pair.ask("stop-flowless") == {"done": "stop-flowless"}
        _wait_for(grpc.StatusCode.UNAVAILABLE, pair)
        assert pair.ask("start-flowless") == {"done": "start-flowless"}
        _wait_for(grpc.StatusCode.OK, pair)

        assert pair.ask("stop-sidecar") == {"done": "stop-sidecar"}
        assert not Path(pair.facts["socket"]).exists()
        assert pair.ask("start-sidecar") == {"done": "start-sidecar"}
        assert _code(pair) is grpc.StatusCode.OK

        # Paused at its end: nobody waits for it.
        assert pair.ask("pause-sidecar") == {"done": "pause-sidecar"}
    assert pair.process.returncode == 0
    assert not Path(pair.facts["socket"]).parent.parent.exists()


@pytest.mark.timeout(300)
def test_a_pair_takes_rules_and_roles_and_has_a_second_user_without_any(tmp_path: Path) -> None:
    config = tmp_path / "sidecar.toml"
    config.write_text(RULES)
    with running_pair("--sidecar-config", str(config), "--role", "admin", "--role", "reader") as pair:
        assert pair.validate(route="admin").session.user.roles == ["admin", "reader"]
        assert pair.validate(route="nowhere").denial.reason == types_pb2.DENIAL_REASON_ROUTE_NOT_COVERED
        with grpc.insecure_channel(f"unix:{pair.facts['socket']}") as channel:
            request = session_pb2.LoginRequest(
                login=pair.facts["other_login"],
                password=pair.facts["password"],
                context=types_pb2.RequestContext(client_ip=pair.facts["client_ip"]),
            )
            answer = SessionServiceStub(channel).Login(request, timeout=CALL_SECONDS)
        assert not answer.session.user.roles
