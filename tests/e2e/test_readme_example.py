"""The README's example runs as it stands there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.system import System, running_system
from trustlayer.v1 import session_pb2


@pytest.fixture
def system(run_dir: Path) -> Iterator[System]:
    with running_system(run_dir) as system:
        yield system


def _run_example(system: System, session_id: str) -> str:
    (example,) = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "README.md").read_text())
    done = subprocess.run(
        [sys.executable, "-c", example, str(system.sidecar.socket), session_id],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_example_welcomes_a_user_and_refuses_after_logout(system: System) -> None:
    system.app.register("ada@example.org", roles=("reader",))
    session_id = system.app.log_in("ada@example.org").session_id
    assert _run_example(system, session_id) == "welcome, Ada ['reader']\n"
    revision = system.app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id)).revision
    assert system.app.validate(session_id, min_revision=revision).HasField("denial")
    assert _run_example(system, session_id) == "no: DENIAL_REASON_REVOKED\n"
