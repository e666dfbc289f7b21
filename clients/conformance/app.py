"""An app that has a client's middleware, as a process that serves HTTP on a port of 127.0.0.1."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from clients.conformance.driver import found
from tools.processes import LAUNCHER, ROOT, free_port, last_lines

HOST: Final = "127.0.0.1"
_READY_SECONDS: Final = 60.0
_END_SECONDS: Final = 10.0
_CALL_SECONDS: Final = 20.0


class AppError(Exception):
    """The app does not start, or does not answer; the text says more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A response. Names of headers are in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str

    def header(self, name: str) -> str | None:
        """All values of a header, or nothing where it is not there."""
        values = [value for other, value in self.headers if other == name]
        return ", ".join(values) if values else None

    @property
    def json(self) -> Any:
        """The body; nothing where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """An app that runs."""

    port: int
    log: Path

    def get(self, path: str, headers: Iterable[tuple[str, str]], *, source: str) -> Page:
        """Ask from an address of this machine. The path is sent as it is. Raises `AppError`."""
        connection = HTTPConnection(HOST, self.port, timeout=_CALL_SECONDS, source_address=(source, 0))
        try:
            connection.putrequest("GET", path, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value.encode("latin-1"))
            connection.endheaders()
            response = connection.getresponse()
            body = response.read().decode("utf-8", errors="replace")
        except (OSError, HTTPException) as error:
            raise AppError(f"did not answer: {error!r}\n{last_lines(self.log)}".rstrip()) from None
        finally:
            connection.close()
        received = tuple((name.lower(), value) for name, value in response.getheaders())
        return Page(status=response.status, headers=received, body=body)


@contextmanager
def serving(
    command: Sequence[str], *, sidecar: Path, log: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[App]:
    """Run an app beside this socket of a sidecar, until the `with` block ends; `{port}` in its command is its port.

    Raises `AppError`.
    """
    port = free_port()
    arguments = [argument.replace("{port}", str(port)) for argument in command]
    told = {"APP_SIDECAR_SOCKET": str(sidecar), **environment}
    with running(arguments, address=port, log=log, environment=told):
        yield App(port=port, log=log)


@contextmanager
def running(
    command: Sequence[str], *, address: int | str, log: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server and wait until it listens, on a port or a Unix socket; end it, and its workers, with the block.

    Raises `AppError` where it ends instead, or takes too long.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), found(command[0]), *command[1:]],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            process_group=0,
        )
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not _listens(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AppError(f"{command[0]} does not listen\n{last_lines(log)}".rstrip())
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _listens(address: int | str) -> bool:
    kind = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        return probe.connect_ex((HOST, address) if isinstance(address, int) else address) == 0
