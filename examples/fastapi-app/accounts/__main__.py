"""Serve the app: `python -m accounts`, configured by the environment (see `settings`).

Prints one line when it listens, and logs to standard error. Ends on Ctrl-C and SIGTERM after the requests in flight.
"""

import contextlib
import logging
import socket
import sys
from typing import Final

import uvicorn

from accounts.main import create_app
from accounts.settings import Settings, SettingsError

_MAX_CONNECTIONS: Final = 1_000
_MAX_HEADER_BYTES: Final = 32_768
_IDLE_SECONDS: Final = 5
_DRAIN_SECONDS: Final = 5


def main() -> int:
    """Serve until told to stop; return the exit code."""
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        print(f"accounts: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        server_header=False,
        # uvicorn would guess, and put what a client wrote in the place of its address: see `visitors`.
        proxy_headers=False,
        limit_concurrency=_MAX_CONNECTIONS,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        http="h11",
        ws="none",
    )
    with socket.create_server((settings.host, settings.port), backlog=128) as listener:
        print(f"accounts listening on {settings.host}:{listener.getsockname()[1]}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
