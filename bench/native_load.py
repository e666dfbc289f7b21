"""Drive the native load generator (`bench/loadgen`, Go): build it, run it, read its one line of JSON.

A Python client costs several times what a hit costs, so its own time would hide the server's.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).resolve().parent / "loadgen"
BUILD_SECONDS: Final = 600.0
EXTRA_SECONDS: Final = 60.0
"""Beyond its own duration, for start, warm-up and the calls still in flight at the end."""


class LoadError(Exception):
    """The generator could not be built or run, or calls of it failed."""


class NativeLoadUnavailableError(LoadError):
    """This machine cannot build the generator: no Go, one that is too old, or no way to get the modules."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run measured. Times in microseconds."""

    requests: int
    errors: int
    seconds: float
    rps: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    first_error: str = ""


def build() -> Path:
    """Build the generator and return its path. Modules and build cache go below the virtual environment."""
    go = shutil.which("go")
    if go is None:
        raise NativeLoadUnavailableError("`go` is not on PATH")
    cache = Path(sys.prefix) / ".cache" / "go"
    environment = os.environ | {
        "GOCACHE": str(cache / "build"),
        "GOMODCACHE": str(cache / "mod"),
        "GOTOOLCHAIN": "local",
        # Without -modcacherw, plain `rm -rf` cannot remove the cache.
        "GOFLAGS": "-mod=readonly -modcacherw -buildvcs=false",
    }
    fetched = _go(environment, go, "mod", "download")
    if fetched.returncode != 0:
        raise NativeLoadUnavailableError(f"`go mod download` failed: {fetched.stderr.strip()}")
    built = _go(environment, go, "build", "-trimpath", "-o", "loadgen", ".")
    if built.returncode != 0:
        raise LoadError(f"bench/loadgen does not build: {built.stderr.strip()}")
    return SOURCE / "loadgen"


def _go(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=SOURCE, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )


def grpc_method(*, socket: Path, method: str) -> tuple[str, ...]:
    """Name a method on a Unix socket."""
    return "-socket", str(socket), "-method", method


def http_server(*, port: int) -> tuple[str, ...]:
    """Name an HTTP server of this machine."""
    return "-http", f"127.0.0.1:{port}"


class NativeLoad:
    """The generator, aimed at one method on one socket, or one HTTP server, with one set of requests."""

    def __init__(self, *, binary: Path, target: Sequence[str], requests: Sequence[Path]) -> None:
        """`target`: what `grpc_method` or `http_server` returns."""
        files = (part for request in requests for part in ("-request-file", str(request)))
        self._command = [str(binary), *target, *files]

    def run(self, *, concurrency: int, seconds: float, warmup: int = 0) -> Load:
        """Measure for that long. Raises `LoadError` when any call failed."""
        command = self._with(concurrency, seconds, warmup)
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + EXTRA_SECONDS, check=False)
        return _read(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def in_background(self, *, concurrency: int, at_most_seconds: float) -> Iterator[list[Load]]:
        """Keep that many calls in flight during the block; the list gets the result when the block ends."""
        results: list[Load] = []
        process = subprocess.Popen(
            self._with(concurrency, at_most_seconds, 0), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            yield results
            early = process.poll()
            process.terminate()
            stdout, stderr = process.communicate(timeout=EXTRA_SECONDS)
            results.append(_read(process.returncode, stdout, stderr))
            if early is not None:
                raise LoadError("the load in the background ended before the measurement did")
        finally:
            process.kill()
            process.wait()

    def _with(self, concurrency: int, seconds: float, warmup: int) -> list[str]:
        numbers = ("-concurrency", str(concurrency), "-duration", f"{seconds}s", "-warmup", str(warmup))
        return [*self._command, *numbers]


def write_requests(directory: Path, name: str, messages: Sequence[bytes]) -> list[Path]:
    """Write each serialized request to a file of its own, as the generator wants them."""
    paths = [directory / f"{name}-{number}.bin" for number in range(len(messages))]
    for path, data in zip(paths, messages, strict=True):
        path.write_bytes(data)
    return paths


def _read(returncode: int, stdout: str, stderr: str) -> Load:
    if returncode != 0:
        raise LoadError(f"the load generator ended with {returncode}: {stderr.strip()}")
    load = Load(**json.loads(stdout))
    if load.errors or not load.requests:
        raise LoadError(f"{load.errors} of {load.errors + load.requests} calls failed, first: {load.first_error}")
    return load
