"""One driver as a process: asked one thing at a time, and ended and started anew when it breaks the rules."""

import contextlib
import os
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from google.protobuf.message import DecodeError

from conformance.v1.conformance_pb2 import DriverRequest, DriverResponse
from tools.processes import LAUNCHER, ROOT, last_lines

_LENGTH: Final = struct.Struct(">I")
_MAX_RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""More than any message of ours; garbage on standard output looks like a length far beyond."""
_PIECE: Final = 65_536
_END_SECONDS: Final = 10.0


class DriverError(Exception):
    """The driver died, hung or said what is no answer; the text holds the end of what it said to people."""


class Driver:
    """A program that speaks `conformance.v1` on its standard input and output. For one thread."""

    def __init__(self, *, command: Sequence[str], log: Path) -> None:
        """`command` is started at the top of the repository; `log` takes its standard error."""
        self._command = tuple(command)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: DriverRequest, *, timeout: float) -> DriverResponse:
        """Have one thing done; starts the driver if it does not run.

        Raises `DriverError` when there is no answer after `timeout` seconds, or none that is one. The driver is ended
        then, and the next question starts another.
        """
        try:
            process = self.start()
            data = request.SerializeToString()
            deadline = time.monotonic() + timeout
            assert process.stdin is not None
            assert process.stdout is not None
            _write(process.stdin, _LENGTH.pack(len(data)) + data, deadline)
            (length,) = _LENGTH.unpack(_read(process.stdout, _LENGTH.size, deadline))
            if length > _MAX_RESPONSE_BYTES:
                raise DriverError("wrote to standard output what is no answer")
            response = DriverResponse.FromString(_read(process.stdout, length, deadline))
        except DecodeError:
            raise self._ended("wrote to standard output what is no answer") from None
        except DriverError as error:
            raise self._ended(str(error)) from None
        except OSError as error:
            raise self._ended(f"cannot be written to or started: {error.strerror}") from None
        if response.WhichOneof("result") is None:
            raise self._ended("gave an answer without a result")
        return response

    def start(self) -> subprocess.Popen[bytes]:
        """Start the driver unless it runs, from a thread that lives as long. Raises `DriverError`, OSError."""
        if self._process is not None:
            return self._process
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    str(LAUNCHER),
                    str(os.getpid()),
                    found(self._command[0]),
                    *self._command[1:],
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                process_group=0,
            )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    @property
    def runs(self) -> bool:
        """Whether it was started and not found to have ended."""
        return self._process is not None

    def _ended(self, what: str) -> DriverError:
        code = self._end()
        how = f" (exit code {code})" if code is not None else ""
        return DriverError(f"the driver {what}{how}\n{last_lines(self._log)}".rstrip())

    def _end(self) -> int | None:
        """End the driver by force, with what it has started; its exit code if it had ended by itself."""
        process = self._process
        self._process = None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        code = process.returncode
        # Some drivers are started by a script, which has a child.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _close(process)
        return code

    def stop(self) -> int | None:
        """End the driver as the protocol says, by the end of its input; its exit code, `None` if it did not run.

        One that does not end is killed, and its exit code is negative.
        """
        process = self._process
        if process is None:
            return None
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        code = process.returncode
        self._end()
        return -int(signal.SIGKILL) if code is None else code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()


def found(program: str) -> str:
    """Find a program: by its path from the top of the repository, or by its name."""
    path = str(ROOT / program) if "/" in program else shutil.which(program)
    if path is None or not os.access(path, os.X_OK):
        raise DriverError(f"is not there: {program}")
    return path


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _write(pipe: IO[bytes], data: bytes, deadline: float) -> None:
    left = memoryview(data)
    while left:
        _wait(pipe, selectors.EVENT_WRITE, deadline)
        left = left[os.write(pipe.fileno(), left[:_PIECE]) :]


def _read(pipe: IO[bytes], length: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < length:
        _wait(pipe, selectors.EVENT_READ, deadline)
        piece = os.read(pipe.fileno(), min(length - len(data), _PIECE))
        if not piece:
            raise DriverError("ended")
        data += piece
    return bytes(data)


def _wait(pipe: IO[bytes], event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, event)
        if not selector.select(max(deadline - time.monotonic(), 0.0)):
            raise DriverError("did not answer in time")
