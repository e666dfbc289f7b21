"""`make demo-web`, as the README of the example says it: what it prints is true, and nothing stays behind."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.repository import ROOT
from tests.support.web import AGENT, Browser
from tools.web_app import EXAMPLE

pytestmark = pytest.mark.long

START_SECONDS = 240.0


@contextmanager
def _started(command: str, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command line as a shell in a terminal would: in a process group of its own."""
    process = subprocess.Popen(
        ["sh", "-c", command],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    give_up = threading.Timer(START_SECONDS, process.kill)
    give_up.start()
    try:
        yield process
    finally:
        give_up.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate()


@pytest.mark.timeout(300)  # three programs by their command lines, passwords hashed at full cost
def test_the_readmes_first_command_serves_the_app_until_ctrl_c(run_dir: Path) -> None:
    (command,) = re.findall(r"(?s)```console\n(.*?)```", (EXAMPLE / "README.md").read_text())[:1]
    with (
        _started(command.removeprefix("$ "), run_dir) as process,
        httpx.Client(trust_env=False, timeout=20, verify=False) as http,
    ):
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        origin, email, password = (
            re.findall(rf"(?m)^  {name} +(\S+)$", said)[0] for name in ("address", "admin", "password")
        )
        browser = Browser(origin=origin.rstrip("/"), http=http, user_agent=AGENT)
        assert browser.log_in(email, password).headers["location"] == "/devices"
        assert browser.get("/admin").status_code == 200
        assert list(run_dir.iterdir())
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert "All programs are stopped and their directory is removed." in rest
    assert "Traceback" not in said + rest
    assert list(run_dir.iterdir()) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(origin, trust_env=False)
