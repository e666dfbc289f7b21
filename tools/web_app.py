"""Start the example app `examples/fastapi-app` as a real process beside a sidecar: for the demo and for tests."""

from pathlib import Path
from typing import IO, Final

from tools.processes import ROOT, ManagedProcess, SidecarProcess, free_port

EXAMPLE: Final = ROOT / "examples" / "fastapi-app"
ADMIN_ROLE: Final = "admin"


class WebAppProcess(ManagedProcess):
    """`python -m accounts` on loopback; see `ManagedProcess`. `origin` is where a browser finds it."""

    def __init__(
        self,
        *,
        directory: Path,
        sidecar: SidecarProcess,
        port: int | None = None,
        trusted_proxies: str = "",
        name: str = "accounts",
        echo: IO[str] | None = None,
    ) -> None:
        """`port`: one that is free unless given; `name` tells the logs of several in one directory apart."""
        port = port or free_port()
        self.origin = f"http://localhost:{port}"
        super().__init__(
            name="accounts",
            module="accounts",
            arguments=(),
            environment={
                "PYTHONPATH": str(EXAMPLE),
                "TRUSTLAYER_SOCKET": str(sidecar.socket),
                "APP_ORIGIN": self.origin,
                "APP_PORT": str(port),
                "APP_TRUSTED_PROXIES": trusted_proxies,
            },
            log=directory / f"{name}.log",
            echo=echo,
        )
