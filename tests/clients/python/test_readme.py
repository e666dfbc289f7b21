"""What the README of the Python client shows runs as it stands there."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.clients.python.conftest import LoggedIn, log_in
from tests.support.repository import ROOT
from tests.support.system import System
from trustlayer.v1 import session_pb2

EXAMPLES = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "clients" / "python" / "README.md").read_text())
VALIDATE, LOG_IN, FASTAPI, FLASK, DJANGO, GRPC = EXAMPLES
SHOWN_SOCKET = "/run/bridge-sidecar/bridge.sock"
DJANGO_SETTINGS = "from django.conf import settings; settings.configure()\n"


def _run(code: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_first_example_welcomes_a_user_and_refuses_after_logout(
    system: System, socket: str, client_ip: str
) -> None:
    session = log_in(system, "grace@example.org", roles=("reader",))
    environment = {"TRUSTLAYER_SOCKET": socket, "SESSION_ID": session.session_id, "CLIENT_IP": client_ip}
    assert _run(VALIDATE, environment).stdout == "welcome, Ada ['reader']\n"
    revision = system.app.sessions.Logout(session_pb2.LogoutRequest(session_id=session.session_id)).revision
    assert system.app.validate(session.session_id, min_revision=revision).HasField("denial")
    assert _run(VALIDATE, environment).stdout == "no: REVOKED\n"


def test_the_example_of_a_login_logs_in(socket: str, ada: LoggedIn) -> None:
    done = _run(LOG_IN.replace(SHOWN_SOCKET, socket))
    assert "trustlayer.errors.CallFailed: LOGIN_REFUSED" in done.stderr  # nobody's password is three dots
    assert ada.session_id not in done.stderr


@pytest.mark.parametrize(
    "code",
    [FASTAPI, FLASK, DJANGO_SETTINGS + DJANGO, GRPC],
    ids=["fastapi", "flask", "django", "grpc"],
)
def test_the_examples_of_middleware_are_programs(code: str) -> None:
    done = _run(code)
    assert (done.returncode, done.stderr) == (0, "")
