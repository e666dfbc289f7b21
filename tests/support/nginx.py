"""A real nginx with a configuration that this repository ships, in which only addresses are replaced."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.http_client import exchange
from tools.processes import LAUNCHER, ROOT, last_lines

READY_SECONDS = 20.0
PROGRAM: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_MAIN = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 256; }}
http {{
    client_body_temp_path temp-body;
    proxy_temp_path temp-proxy;
    fastcgi_temp_path temp-fastcgi;
    uwsgi_temp_path temp-uwsgi;
    scgi_temp_path temp-scgi;
    client_max_body_size 64m;
    include {include};
}}
"""


class Nginx:
    """nginx with one worker, everything it writes in the directory."""

    def __init__(self, *, directory: Path, config: str, port: int, replace: Mapping[str, str]) -> None:
        """`config`: the file below `deploy/nginx`; each text of `replace` has to be in it exactly once."""
        self.port = port
        self.error_log = directory / "error.log"
        self.access_log = directory / "logs" / "access.log"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        text = (ROOT / "deploy" / "nginx" / config).read_text()
        for shipped, used in {"listen 8080;": f"listen 127.0.0.1:{port};", **replace}.items():
            assert text.count(shipped) == 1, f"{shipped!r} is not once in {config}"
            text = text.replace(shipped, used)
        self.access_log.parent.mkdir(parents=True)
        (directory / "site.conf").write_text(text)
        main = "user root;\n" if os.geteuid() == 0 else ""  # the worker has to reach sockets in private directories
        (directory / "nginx.conf").write_text(main + _MAIN.format(include=directory / "site.conf"))

    def __enter__(self) -> Self:
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())),
                *(PROGRAM, "-p", str(self._directory), "-e", "error.log", "-c", "nginx.conf"),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0,
        )  # fmt: skip
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"nginx is not ready\n{last_lines(self.error_log)}")
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            return exchange(self.port, "GET", "/").status > 0
        except OSError:
            return False

    def stop(self) -> None:
        """End it; its worker ends with it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
