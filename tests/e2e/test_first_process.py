"""As the first process of a container a program ends when it is told to, also before it has begun to drain."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.processes import children
from tools.die_with_parent import __file__ as launcher
from tools.processes import ROOT, TESTING

pytestmark = pytest.mark.long

UNSHARE = shutil.which("unshare") or ""
ENOUGH = 60.0


def _may_have_pids() -> bool:
    return bool(UNSHARE) and subprocess.run([UNSHARE, "--pid", "--fork", "true"], check=False).returncode == 0


@pytest.mark.skipif(not _may_have_pids(), reason="may not have process ids of its own")
@pytest.mark.parametrize("command", [["migrate"], ["serve"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_waits_for_a_database_ends_at_once(
    tmp_path: Path, command: Sequence[str], number: signal.Signals
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(ENOUGH)
        environment = {
            **TESTING,
            "FLOWLESS_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none",
            "FLOWLESS_BUSY_TIMEOUT_SECONDS": "60",
        }
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", launcher, str(os.getpid())),
                *(UNSHARE, "--pid", "--fork", "--kill-child", sys.executable, "-m", "flowless", *command),
            ],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            asked, _ = silent.accept()
            with asked:
                (first,) = children(process.pid)
                began = time.monotonic()
                os.kill(first, number)
                assert process.wait(ENOUGH) == 128 + number
                # The database would have been waited for longer than this.
                assert time.monotonic() - began < ENOUGH / 2
        finally:
            process.kill()
            process.wait()
