"""The README's examples run as they stand there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.repository import ROOT
from tests.support.system import System, running_system
from trustlayer.v1 import session_pb2


@pytest.fixture
def system(run_dir: Path) -> Iterator[System]:
    with running_system(run_dir) as system:
        yield system


EXAMPLES = re.findall(r"(?s)```python\n(.*?)```", (ROOT / "README.md").read_text())
VALIDATE, REGISTER, LOG_IN, MAGIC_LINK, RESET = EXAMPLES


def _run(example: str, system: System) -> str:
    return _run_with([str(system.sidecar.socket)], {}, example)


def _validate(system: System, session_id: str) -> str:
    return _run_with([], {"TRUSTLAYER_SOCKET": str(system.sidecar.socket), "SESSION_ID": session_id}, VALIDATE)


def _run_with(arguments: Sequence[str], environment: Mapping[str, str], example: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", example, *arguments],
        env={**os.environ, **environment},
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
    assert _validate(system, session_id) == "welcome, Ada ['reader']\n"
    revision = system.app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id)).revision
    assert system.app.validate(session_id, min_revision=revision).HasField("denial")
    assert _validate(system, session_id) == "no: REVOKED\n"


def test_the_readmes_examples_register_log_in_and_redeem_links(system: System) -> None:
    user_id = _run(REGISTER, system).removeprefix("registered ").strip()
    session_id = _run(LOG_IN, system).split()[-1]
    assert system.app.status().lease_held
    assert _validate(system, session_id) == "welcome, Grace ['engineer']\n"
    assert _run(MAGIC_LINK, system) == "logged in by magic_link\n"
    assert _run(RESET, system) == f"new password for {user_id}\n"
    assert _validate(system, session_id) == "no: REVOKED\n"
