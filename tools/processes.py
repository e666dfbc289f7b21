"""Start Flowless and a sidecar as real processes in one private directory: for demo, run, tests and bench.

Both programs are started as their users start them (`python -m …`, configured by the environment), announce
themselves with one line on standard output, and log to a file in the directory. They end with the `with` block,
also on Ctrl-C and on an error: SIGTERM first, SIGKILL by process id when that took too long. Should this process
itself be killed, the kernel kills them (see `die_with_parent`).

They run in their own process group, so Ctrl-C in a terminal reaches only this process, which then ends them in
order: the sidecar before the Flowless that it watches.
"""

import base64
import contextlib
import json
import os
import random
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType, TracebackType
from typing import IO, ClassVar, Final, Protocol, Self

ROOT: Final = Path(__file__).resolve().parent.parent
READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
"""Longer than both programs take to drain."""
COMMAND_SECONDS: Final = 60.0
SOCKET_PATH_BYTES: Final = 100
"""Linux allows 107 for a Unix socket's path; the rest is left for gRPC's prefix and a lock beside it."""
SIDECAR_SCOPES: Final = ("validate", "identity", "sessions", "trust_tokens")
RELAY_ALL: Final = ("IdentityService/*", "SessionService/*", "TrustTokenService/*")
TESTING: Final[Mapping[str, str]] = {
    "FLOWLESS_TESTING": "1",
    "FLOWLESS_PASSWORD_PROFILE": "testing",
    "FLOWLESS_LAME_DUCK_SECONDS": "0",
    # All of a test's people log in from one address, and some of them many times at once.
    "FLOWLESS_ATTEMPTS_FREE": "100",
    "FLOWLESS_ATTEMPTS_PER_IP_PER_MINUTE": "1000000",
    "FLOWLESS_ATTEMPTS_PER_BRIDGE_PER_MINUTE": "1000000",
}
"""Cheap password hashes, for tests only (the server refuses the profile without the first variable); a quick end."""

_OURS: Final = ("FLOWLESS_", "BRIDGE_SIDECAR_")
LAUNCHER: Final = ROOT / "tools" / "die_with_parent.py"


class ProcessError(Exception):
    """A program did not start, or a command of it failed. The text holds the end of what it said."""


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Make a private directory whose path is short enough for Unix sockets below it; remove it at the end."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > SOCKET_PATH_BYTES // 2:
        base = "/tmp"
    directory = Path(tempfile.mkdtemp(prefix="tl-", dir=base))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def exit_on_sigterm() -> None:
    """Turn SIGTERM into `SystemExit`, so that `with` blocks end the processes. For programs, not for libraries."""

    def leave(signum: int, _: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)


def free_port() -> int:
    """Find a port that nobody uses now, below those that systems give to clients: it stays free for its server."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def last_lines(log: Path, count: int = 15) -> str:
    """Return the end of a log file; empty when there is none."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A program of ours to start: `python -m module argument…`, with exactly this environment."""

    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    python: Sequence[str] = (sys.executable,)


class Process(Protocol):
    """What is needed of a process; `subprocess.Popen` has it."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    @property
    def returncode(self) -> int | None:
        """Its exit code, once that was asked for by `poll` or `wait`."""
        ...

    def poll(self) -> int | None:
        """Exit code if it has ended, negative for a signal."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        ...

    def send_signal(self, signum: int, /) -> None:
        """Signal it."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM."""
        ...

    def kill(self) -> None:
        """Send SIGKILL."""
        ...


class Launcher(Protocol):
    """How programs are started."""

    def launch(self, command: CommandLine, *, stdout: int, stderr: int) -> Process:
        """Start it in `ROOT`, in a process group of its own, so that the kernel ends it with this process."""
        ...


class CommandLineLauncher:
    """Starts programs as their users do."""

    def launch(self, command: CommandLine, *, stdout: int, stderr: int) -> Process:
        """See `Launcher.launch`. Start it from a thread that lives as long as it should."""
        return subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())),
                *(*command.python, "-m", command.module, *command.arguments),
            ],
            cwd=ROOT,
            env=command.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            process_group=0,
        )


class ManagedProcess:
    """One program of ours: `python -m MODULE ARGUMENT…`, with a ready line, a log file and a certain end.

    Not for use by several threads at once. May be started again after it has stopped.
    """

    launcher: ClassVar[Launcher] = CommandLineLauncher()
    """How all of them are started; tests put another one here."""

    def __init__(
        self,
        *,
        name: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        echo: IO[str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        """`echo`, if given, gets every log line too, behind the program's name; `python` is the interpreter."""
        self.name = name
        self.log = log
        self.address = ""
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(_OURS)} | dict(environment)
        """All of what the next start is given."""
        self._module = module
        self._arguments = tuple(arguments)
        self._python = python
        self._echo = echo
        self._process: Process | None = None
        self._stdout: IO[bytes] | None = None
        self._pump: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Process id of the running program."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout: float = READY_SECONDS) -> str:
        """Start the program, wait for its ready line, and return the address that the line announces.

        Raises `ProcessError` when it ends before it is ready, or is not ready after `timeout` seconds.
        """
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already")
        with contextlib.ExitStack() as ours:
            self._stdout, stdout = _pipe()
            ours.enter_context(stdout)
            said, stderr = _pipe() if self._echo else (None, self.log.open("ab"))
            ours.enter_context(stderr)
            self._process = self.launcher.launch(
                self._command_line(self._arguments), stdout=stdout.fileno(), stderr=stderr.fileno()
            )
        try:
            if said is not None and self._echo is not None:
                self._pump = threading.Thread(target=self._copy_log, args=(said, self._echo), daemon=True)
                self._pump.start()
            self.address = self._wait_until_ready(timeout)
        except BaseException:
            self.kill()
            raise
        return self.address

    def run_command(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> str:
        """Run one command of the program with the same environment; return what it printed.

        Raises `ProcessError` with what it said when it fails or takes too long.
        """
        done = self.try_command(*arguments, timeout=timeout)
        if done.returncode != 0:
            raise ProcessError(
                f"`{self.name} {' '.join(arguments)}` ended with {done.returncode}: {done.stderr or done.stdout}"
            )
        return done.stdout

    def try_command(
        self, *arguments: str, timeout: float = COMMAND_SECONDS, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command, whatever its exit code; `environment` adds and overrides.

        Raises `ProcessError` when it takes too long.
        """
        command = self._command_line(arguments, environment or {})
        # Files, not pipes: nobody has to read while the command runs.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = self.launcher.launch(command, stdout=stdout.fileno(), stderr=stderr.fileno())
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired as error:
                raise ProcessError(f"`{self.name} {' '.join(arguments)}` took longer than {timeout:g} s") from error
            finally:
                process.kill()
                process.wait()
            return subprocess.CompletedProcess(arguments, code, _text_of(stdout), _text_of(stderr))

    def said_after_ready(self) -> bytes:
        """Return what the program, which has ended, wrote to standard output after its ready line."""
        assert self._stdout is not None
        return self._stdout.read()

    def _command_line(self, arguments: Sequence[str], more: Mapping[str, str] = MappingProxyType({})) -> CommandLine:
        return CommandLine(
            module=self._module, arguments=arguments, environment=self.environment | dict(more), python=self._python
        )

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the program to end by itself; return its exit code, negative for a signal."""
        return self._running().wait(timeout)

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal, for example SIGSTOP to play a program that hangs."""
        self._running().send_signal(signum)

    def stop(self, *, timeout: float = STOP_SECONDS) -> int | None:
        """End the program in an orderly way, by force after `timeout` seconds; return its exit code.

        Does nothing and returns `None` when it was never started.
        """
        process = self._process
        if process is None:
            return None
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()
        return process.returncode

    def kill(self) -> None:
        """End the program at once, as a crash would; does nothing when it has ended."""
        process = self._process
        if process is None:
            return
        process.kill()
        process.wait()
        if self._pump is not None:
            self._pump.join()
            self._pump = None
        if self._stdout is not None:
            self._stdout.close()
            self._stdout = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    def _wait_until_ready(self, timeout: float) -> str:
        """Read standard output up to its first newline, never longer than the timeout."""
        stdout = self._stdout
        assert stdout is not None
        line = b""
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise self._failed(f"was not ready after {timeout:g} s")
                # One byte at a time: nothing after the line is taken, and the line is short.
                byte = os.read(stdout.fileno(), 1)
                if not byte:
                    self._running().wait()
                    raise self._failed(f"ended with {self._running().returncode} before it was ready")
                line += byte
        announced, found, address = line.decode(errors="replace").strip().partition(" listening on ")
        if not found or announced != self.name:
            raise self._failed(f"said {line!r} instead of `{self.name} listening on ADDRESS`")
        return address

    def _failed(self, what: str) -> ProcessError:
        if self._pump is not None:
            self._running().kill()
            self._pump.join()
        return ProcessError(f"{self.name} {what}\n{last_lines(self.log)}".rstrip())

    def _copy_log(self, source: IO[bytes], echo: IO[str]) -> None:
        with source, self.log.open("ab", buffering=0) as log:
            for line in source:
                log.write(line)
                echo.write(f"{self.name:<14} | {line.decode(errors='replace')}")
                echo.flush()


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    """Make a pipe, which no child inherits by accident; its end to read and its end to write."""
    read, write = os.pipe()
    return os.fdopen(read, "rb", buffering=0), os.fdopen(write, "wb", buffering=0)


def _text_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


@dataclass(frozen=True, slots=True)
class BridgeCredential:
    """A bridge and its secret, as `flowless bridges create` printed them once."""

    id: str
    secret: str


def write_signing_key(file: Path) -> None:
    """Make the key that wraps signing keys, for its owner only, unless it is there."""
    with (
        contextlib.suppress(FileExistsError),
        os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new,
    ):
        new.write(base64.b64encode(os.urandom(32)).decode("ascii") + "\n")


class FlowlessProcess(ManagedProcess):
    """`flowless serve`, over a SQLite file in the directory unless told otherwise. `address` is what clients dial.

    The `with` block migrates the database before it starts the server; a restart (`start` after `stop` or `kill`)
    finds the database as it was left.
    """

    def __init__(
        self,
        *,
        directory: Path,
        listen: str = "127.0.0.1:0",
        database_url: str = "",
        name: str = "flowless",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        echo: IO[str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        """`name` tells the logs of several replicas in one directory apart; `database_url` instead of SQLite.

        `arguments` follow `serve`. `environment` adds to and overrides what is set here; give `TESTING` in tests.
        """
        self.database_url = database_url or f"sqlite:///{directory / 'flowless.db'}"
        signing_key_file = directory / "signing-key"
        write_signing_key(signing_key_file)
        super().__init__(
            name="flowless",
            module="flowless",
            arguments=("serve", *arguments),
            environment={
                "FLOWLESS_DATABASE_URL": self.database_url,
                "FLOWLESS_LISTEN": listen,
                "FLOWLESS_SIGNING_KEY_FILE": str(signing_key_file),
                "FLOWLESS_LOG_FORMAT": "console" if echo else "json",
                **(environment or {}),
            },
            log=directory / f"{name}.log",
            echo=echo,
            python=python,
        )

    def migrate(self) -> None:
        """Create or upgrade the database."""
        self.run_command("migrate")

    def create_signing_keys(self) -> None:
        """Make the keys that sign trust tokens."""
        self.run_command("keys", "rotate")

    def create_bridge(self, name: str, scopes: Sequence[str] = SIDECAR_SCOPES) -> BridgeCredential:
        """Create a bridge with these scopes."""
        options = [part for scope in scopes for part in ("--scope", scope)]
        created = json.loads(self.run_command("bridges", "create", name, *options, "--json"))
        return BridgeCredential(id=created["id"], secret=created["secret"])

    def __enter__(self) -> Self:
        self.migrate()
        return super().__enter__()


class SidecarProcess(ManagedProcess):
    """`bridge-sidecar serve` with its socket in the directory. `address` is `unix:` and the socket's path."""

    def __init__(
        self,
        *,
        directory: Path,
        upstream: str,
        secret: str,
        relay: Sequence[str] = RELAY_ALL,
        max_staleness_seconds: float = 2.0,
        name: str = "sidecar",
        environment: Mapping[str, str] | None = None,
        echo: IO[str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        """`name` tells several sidecars in one directory apart; `environment` adds and overrides."""
        self.socket = directory / name / "bridge.sock"
        if len(os.fsencode(self.socket)) > SOCKET_PATH_BYTES:
            raise ValueError(f"too long for a Unix socket: {self.socket}")
        self.secret_file = directory / f"{name}.secret"
        self.write_secret(secret)
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        super().__init__(
            name="bridge-sidecar",
            module="bridge_sidecar",
            arguments=("serve",),
            environment={
                "BRIDGE_SIDECAR_SOCKET_PATH": str(self.socket),
                "BRIDGE_SIDECAR_UPSTREAM": upstream,
                "BRIDGE_SIDECAR_BRIDGE_SECRET_FILE": str(self.secret_file),
                "BRIDGE_SIDECAR_RELAY": ",".join(relay),
                "BRIDGE_SIDECAR_MAX_STALENESS_SECONDS": f"{max_staleness_seconds:g}",
                "BRIDGE_SIDECAR_UPSTREAM_TIMEOUT_SECONDS": f"{min(1.0, max_staleness_seconds):g}",
                "BRIDGE_SIDECAR_LOG_FORMAT": "console" if echo else "json",
                **(environment or {}),
            },
            log=directory / f"{name}.log",
            echo=echo,
            python=python,
        )

    def write_secret(self, secret: str) -> None:
        """Replace the secret file in one step, as an operator or a secret mount does."""
        fresh = self.secret_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(secret + "\n")
        fresh.replace(self.secret_file)
