"""The rules' file, read again when it changes. A file that cannot be used changes nothing, and says so.

Only the rules are taken over while the program runs. Whatever else changed in the file waits for a restart, and that
is said as well.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bridge_sidecar.config import ConfigError, SidecarConfig
from bridge_sidecar.routes import Routes
from trust_core import logs
from trust_core.clock import NS_PER_SECOND

_LOOK_EVERY_SECONDS: Final = 1.0

Fingerprint = tuple[int, int, int, int]


class RoutesReload:
    """See the module. Touched by the event loop only."""

    def __init__(
        self, *, path: Path, load: Callable[[], SidecarConfig], running: SidecarConfig, routes: Routes
    ) -> None:
        """`load` reads all settings anew; `running` are those that the program was started with."""
        self._path = path
        self._load = load
        self._running = running
        self._routes = routes
        # What Flowless was told: a revoke that waits for all sidecars waits as long as this.
        self._longest_beyond_lease_ns = routes.table.longest_beyond_lease_ns
        self._log: Any = logs.get_logger("bridge-sidecar")
        self._seen = self._fingerprint()

    async def run(self) -> None:
        """Look once a second, for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            self.look()

    def look(self) -> None:
        """Take the rules over if the file changed and can be used.

        A change is a new inode, size or modification time: both an edited file and a swapped symbolic link (as
        orchestrators mount files) are seen.
        """
        seen = self._fingerprint()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            config = self._load()
            table = config.route_table
            most = self._longest_beyond_lease_ns
            if table.longest_beyond_lease_ns > most:
                raise ConfigError(
                    "serve_beyond_lease_seconds: may not grow while the program runs, because Flowless was told "
                    f"{most / NS_PER_SECOND:g} at the start; restart the sidecar"
                )
        except ConfigError as error:
            self._routes.problems = error.problems
            self._log.error(
                "rules not replaced; those from before hold", file=str(self._path), problems=error.problems
            )
            return
        except Exception as error:  # noqa: BLE001 - whatever a file makes the reader do, the sidecar serves on
            self._routes.problems = ("could not be read; the log says why",)
            self._log.error(
                "rules not replaced; those from before hold", file=str(self._path), **logs.describe_exception(error)
            )
            return
        self._routes.table = table
        self._routes.problems = ()
        self._log.info("rules read again", file=str(self._path), rules=len(table.rules))
        if replace(config, routes=self._running.routes) != self._running:
            self._log.warning("settings other than the rules changed too; they need a restart", file=str(self._path))

    def _fingerprint(self) -> Fingerprint | None:
        try:
            found = self._path.stat()
        except OSError:
            return None  # gone: reading it says so, as a problem
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
