"""How a bench program of one language is found, built, run, and what it has to print.

A program reads one JSON object from standard input, the fields of `Task`, and prints a JSON object a line for each
measurement, the fields of `Measurement`. It measures `validate` and `redis_get` with each concurrency of the task,
and `jwt_verify` with one:

- `validate`: the client's own validate through the socket, a hit. The program asserts that the answer is active.
- `redis_get`: the language's usual Redis client over the Unix socket, GET and parsing the JSON.
- `jwt_verify`: the language's usual JWT library, RS256 with the expiry checked.

`concurrency` is how many calls are in flight, each followed by the next. Every call that begins within `seconds`,
after `warmup_seconds` that do not count, is timed by a monotonic clock.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import yaml

from tools.processes import LAUNCHER, ROOT, last_lines

LIST: Final = ROOT / "bench" / "languages.yaml"
VALIDATE: Final = "validate"
REDIS: Final = "redis_get"
JWT: Final = "jwt_verify"
BUILD_SECONDS: Final = 1800.0
OF_MAKE: Final = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
"""What a make that called this program tells its own children only."""
START_SECONDS: Final = 60.0
"""More than any of them needs to start, connect and end."""


class ProgramError(Exception):
    """A program was not built, failed, or printed something else than its measurements. The text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """An entry of `bench/languages.yaml`."""

    name: str
    toolchain: tuple[str, ...]
    build: str
    run: tuple[str, ...]

    def missing(self) -> list[str]:
        """Name the commands of its toolchain that this machine lacks."""
        return [command for command in self.toolchain if shutil.which(command) is None]

    def command(self) -> list[str]:
        """Return the command with the path of its program. Raises `ProgramError` when that is not there."""
        first, *rest = self.run
        found = str(ROOT / first) if "/" in first else shutil.which(first)
        if found is None or not os.access(found, os.X_OK):
            raise ProgramError(f"{self.name}: {first} is not there, or cannot be run")
        return [found, *rest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a program is told, on standard input: it holds a session id, which no command line may."""

    socket: str
    session_id: str
    client_ip: str
    redis_socket: str
    redis_key: str
    jwt: str
    jwt_public_key_pem: str
    seconds: float
    warmup_seconds: float
    concurrency: tuple[int, ...]

    def expected(self) -> list[tuple[str, int]]:
        """List what has to be measured, in the order of the table."""
        return [*((what, n) for what in (VALIDATE, REDIS) for n in self.concurrency), (JWT, 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One line of what a program prints."""

    what: str
    concurrency: int
    calls: int
    p50_us: float
    p99_us: float
    per_second: float


def programs(file: Path = LIST) -> list[Program]:
    """Read the list. Raises `ProgramError` when it is not one."""
    try:
        return [
            Program(
                name=entry["name"],
                toolchain=tuple(entry["toolchain"]),
                build=entry["build"],
                run=tuple(entry["run"]),
            )
            for entry in yaml.safe_load(file.read_text()) or []
        ]
    except (KeyError, TypeError, yaml.YAMLError) as error:
        raise ProgramError(f"{file.name}: {error}") from error


def build(program: Program) -> None:
    """Run its make target; what that prints goes to standard error."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    command = ["make", "--no-print-directory", program.build]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=sys.stderr, env=environment, timeout=BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"`make {program.build}` took longer than {BUILD_SECONDS:g} s") from error
    if done.returncode != 0:
        raise ProgramError(f"`make {program.build}` ended with {done.returncode}")


def run(program: Program, task: Task) -> list[Measurement]:
    """Run it and return what it measured, in the order of the table. Raises `ProgramError`."""
    limit = START_SECONDS + 2 * len(task.expected()) * (task.seconds + task.warmup_seconds)
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "stderr"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *program.command()],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                process_group=0,
            )
        try:
            printed, _ = process.communicate(json.dumps(asdict(task)).encode(), timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise ProgramError(f"{program.name} took longer than {limit:g} s\n{_said(log, task)}") from error
        finally:
            _end(process)
        if process.returncode != 0:
            raise ProgramError(f"{program.name} ended with {process.returncode}\n{_said(log, task)}")
    try:
        return read(printed.decode(), task)
    except (ValueError, UnicodeDecodeError) as error:
        raise ProgramError(f"{program.name} printed what is no measurement: {error}") from error


def read(printed: str, task: Task) -> list[Measurement]:
    """Read what a program printed. Raises ValueError when it is not exactly what the task asks for."""
    found: dict[tuple[str, int], Measurement] = {}
    for line in printed.splitlines():
        measured = _measurement(json.loads(line))
        key = (measured.what, measured.concurrency)
        if key in found:
            raise ValueError(f"{key} twice")
        found[key] = measured
    expected = task.expected()
    if found.keys() != set(expected):
        raise ValueError(f"{sorted(found)} instead of {sorted(expected)}")
    return [found[key] for key in expected]


def _measurement(line: Any) -> Measurement:
    names = {field.name for field in fields(Measurement)}
    if not isinstance(line, dict) or line.keys() != names:
        raise ValueError(f"a line that has not exactly {sorted(names)}")
    numbers = {name: value for name, value in line.items() if name != "what"}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name} is {value!r}")
    measured = Measurement(**line)
    if measured.p50_us > measured.p99_us:
        raise ValueError(f"{measured.what}: its p50 is greater than its p99")
    return measured


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of it, and of what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def _said(log: Path, task: Task) -> str:
    """Return the end of what it said on standard error, which should hold no session id, without one."""
    return last_lines(log).replace(task.session_id, "sess_…")


def names(of: Sequence[Program]) -> str:
    """List them for a person."""
    return ", ".join(program.name for program in of)
