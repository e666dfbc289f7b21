"""Start our programs from a process that has imported them already, so that a start costs a fork and not the imports.

What a test starts is a process of its own all the same: with its own command line arguments, environment, files and
event loop, in its own process group, and gone when the test's process is gone. Only the imports are shared, which
hold no state of a run. `tests/e2e/test_flowless_cli.py`, the demo, the faults and the benchmarks start the programs
by their command lines.

One process per program waits for requests (`serve`, below) and is forked for each. The fork is adopted by the test's
process (PR_SET_CHILD_SUBREAPER), which can then wait for it like for any child.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from tools.die_with_parent import PR_SET_PDEATHSIG
from tools.processes import LAUNCHER, ROOT, CommandLine, Launcher, Process

PRELOADED: Final[Mapping[str, tuple[str, ...]]] = {
    "flowless": ("flowless.cli", "flowless.serving"),
    "bridge_sidecar": ("bridge_sidecar.cli", "bridge_sidecar.bootstrap"),
}
"""What each program imports before it looks at its settings; what it imports by need stays by need."""

_PR_SET_CHILD_SUBREAPER: Final = 36
_MAX_REQUEST_BYTES: Final = 200_000
_ANSWER_SECONDS: Final = 60.0


class Adopted:
    """A child that was forked elsewhere. Not for use by several threads at once, as `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Exit code if it has ended, negative for a signal."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self._pidfd)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        if self.poll() is None:
            select.select([self._pidfd], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
        return code

    def send_signal(self, signum: int) -> None:
        """Signal it, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _can_be_forked(command: CommandLine) -> bool:
    """Say whether a start by a fork is the same as one by the command line.

    It is not where Python itself is told something at its start: which modules are found, for example.
    """
    told = {name: value for name, value in command.environment.items() if name.startswith("PYTHON")}
    ours = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    return command.module in PRELOADED and tuple(command.python) == (sys.executable,) and told == ours


class PreloadedLauncher:
    """Starts the programs in `PRELOADED` by forks, others as `fallback` does. For use by all threads of a process."""

    def __init__(self, *, fallback: Launcher) -> None:
        self._fallback = fallback
        self._lock = threading.Lock()
        self._sources: dict[str, tuple[subprocess.Popen[bytes], socket.socket]] = {}

    def launch(self, command: CommandLine, *, stdout: int, stderr: int) -> Process:
        """See `Launcher.launch`."""
        if not _can_be_forked(command):
            return self._fallback.launch(command, stdout=stdout, stderr=stderr)
        request = {
            "parent": os.getpid(),
            "arguments": list(command.arguments),
            "environment": dict(command.environment),
            "cores": sorted(os.sched_getaffinity(0)),
        }
        with self._lock:
            source = self._source(command.module)
            try:
                socket.send_fds(source, [json.dumps(request).encode()], [stdout, stderr])
                answer = source.recv(64)
            except TimeoutError:
                self._forget(command.module)  # its late answer would be taken for that to the next request
                raise
        if not answer:
            raise RuntimeError(f"the process that starts {command.module} has ended")
        return Adopted(int(answer))

    def stop(self) -> None:
        """End the processes that wait for requests; what was started by them goes on."""
        with self._lock:
            for module in list(self._sources):
                self._forget(module)

    def _forget(self, module: str) -> None:
        process, requests = self._sources.pop(module)
        requests.close()
        process.kill()
        process.wait()

    def _source(self, module: str) -> socket.socket:
        known = self._sources.get(module)
        if known is not None:
            return known[1]
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_SECONDS)
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())),
                    *(sys.executable, "-m", "tests.support.preloaded", module, str(theirs.fileno())),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self._sources[module] = (process, ours)
        return ours


def _next_start(requests: socket.socket) -> tuple[dict[str, object], Sequence[int]]:
    """Fork for each request; return only in forks, with what was asked for and its standard output and error."""
    while True:
        message, fds, _, _ = socket.recv_fds(requests, _MAX_REQUEST_BYTES, 2)
        if not message:
            os._exit(0)
        tell, told = os.pipe()
        between = os.fork()
        if between:
            # Once this has ended, its child has been adopted and can be waited for by who asked.
            os.waitpid(between, 0)
            requests.send(os.read(tell, 16))
            for fd in (tell, told, *fds):
                os.close(fd)
            continue
        child = os.fork()
        if child:
            os.write(told, str(child).encode())
            os._exit(0)
        os.close(tell)
        os.close(told)
        requests.close()
        return json.loads(message), fds


def _become(asked: dict[str, object], fds: Sequence[int]) -> None:
    """Take over what a process of its own would have been started with."""
    parent = asked["parent"]
    # Until the fork in between has ended, it is the parent. A request for the signal holds for one parent only.
    deadline = time.monotonic() + _ANSWER_SECONDS
    while os.getppid() != parent and time.monotonic() < deadline:
        time.sleep(0.0005)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    for target, fd in zip((1, 2), fds, strict=True):
        os.dup2(fd, target)
        os.close(fd)
    cores = asked["cores"]
    assert isinstance(cores, list)
    os.sched_setaffinity(0, cores)
    environment = asked["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)


def serve(module: str, requests: socket.socket) -> None:
    """Import the program, then fork for each request until the other end is closed."""
    for name in PRELOADED[module]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    asked, fds = _next_start(requests)
    _become(asked, fds)
    arguments = asked["arguments"]
    assert isinstance(arguments, list)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
