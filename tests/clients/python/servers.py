"""Real servers of Python apps: gunicorn, uWSGI, uvicorn, each a process of its own on a socket or port."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.processes import LAUNCHER, ROOT, last_lines

READY_SECONDS = 30.0
END_SECONDS = 10.0


@contextmanager
def running(
    command: Sequence[str], *, address: int | str, directory: Path, environment: Mapping[str, str]
) -> Iterator[Path]:
    """Start a server and wait until it listens; gives its log. Ends it, and its workers, with the block."""
    log = directory / "server.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            process_group=0,
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _listens(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command[0]} does not listen\n{last_lines(log)}")
            time.sleep(0.02)
        yield log
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _listens(address: int | str) -> bool:
    kind = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(("127.0.0.1", address) if isinstance(address, int) else address) == 0
