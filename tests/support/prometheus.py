"""A real Prometheus, of Debian's package, that scrapes often and answers queries."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from tools.processes import LAUNCHER, ProcessError, free_port, last_lines

PROGRAM: Final = shutil.which("prometheus")
PROMTOOL: Final = shutil.which("promtool")
SECONDS: Final = 30.0

Series = tuple[Mapping[str, str], Sequence[tuple[float, float]]]


class PrometheusServer:
    """Scrapes targets every second. Ends with the `with` block, and with the process that started it."""

    def __init__(self, *, directory: Path, targets: Mapping[str, Sequence[str]]) -> None:
        """`targets`: job -> addresses. The directory holds its data."""
        self._directory = directory / "prometheus"
        self._targets = targets
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"127.0.0.1:{free_port()}"

    def __enter__(self) -> Self:
        assert PROGRAM is not None, "needs Debian's package prometheus"
        self._directory.mkdir(exist_ok=True)
        jobs = [{"job_name": job, "static_configs": [{"targets": list(at)}]} for job, at in self._targets.items()]
        config = self._directory / "prometheus.yml"
        every = {"scrape_interval": "1s", "scrape_timeout": "1s"}
        config.write_text(json.dumps({"global": every, "scrape_configs": jobs}))  # JSON is YAML
        log = self._directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), PROGRAM),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    f"--web.listen-address={self.address}",
                ],
                stdout=output,
                stderr=output,
                process_group=0,
            )
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self._get("/-/ready", {})
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise ProcessError(f"prometheus is not ready\n{last_lines(log)}") from None
                time.sleep(0.1)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _get(self, path: str, query: Mapping[str, str]) -> bytes:
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return bytes(answer.read())

    def series(self, expression: str, *, begin: float, end: float, step: float) -> list[Series]:
        """Run a query over a time. Raises ProcessError with what Prometheus says of a bad one."""
        query = {"query": expression, "start": f"{begin}", "end": f"{end}", "step": f"{step}"}
        try:
            answer: Any = json.loads(self._get("/api/v1/query_range", query))
        except urllib.error.HTTPError as error:
            with error:
                raise ProcessError(f"{expression}: {error.read().decode()}") from None
        return [
            (found["metric"], [(float(at), float(value)) for at, value in found["values"]])
            for found in answer["data"]["result"]
        ]
