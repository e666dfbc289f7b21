"""The rules' file, read again when it changes. A file that cannot be used changes nothing, and says so.

Only the rules are taken over while the program runs, with the default mode and prefixes that they fall back on.
Whatever else changed in the file waits for a restart, and that is said as well.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bridge_sidecar.config import ConfigError, SidecarConfig
from bridge_sidecar.routes import Routes, RouteTable
from trust_core import logs, small_file
from trust_core.clock import NS_PER_SECOND

_LOOK_EVERY_SECONDS: Final = 1.0

_NOT_READ: Final = (-1, -1, -1, -1)

_OF_THE_TABLE: Final = ("routes", "default_mode", "ip_prefix_v4", "ip_prefix_v6")


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
        # The file may have changed since `running` was read from it, so it is read once more in any case.
        self._seen: small_file.Fingerprint | None = _NOT_READ
        self._noticed = self._fingerprint()

    async def run(self) -> None:
        """Look once a second, for ever."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take the rules over if the file changed and can be used.

        A change counts when a second look finds the same: half a file may be a whole one to TOML, with rules that
        lack what was not written yet.
        """
        found = self._fingerprint()
        if found == self._seen:
            return
        if found != self._noticed:
            self._noticed = found
            return
        try:
            # In a thread: a large file takes longer than requests should wait.
            config, table = await asyncio.to_thread(self._read)
        except ConfigError as error:
            self._keep(error.problems, {"problems": error.problems})
        except Exception as error:  # noqa: BLE001 - whatever a file makes the reader do, the sidecar serves on
            self._keep(("could not be read; the log says why",), logs.describe_exception(error))
        else:
            if self._fingerprint() != found:
                return
            if self._seen is not _NOT_READ or config != self._running:
                self._take_over(config, table)
        self._seen = found

    def _read(self) -> tuple[SidecarConfig, RouteTable]:
        config = self._load()
        table, most = config.route_table, self._longest_beyond_lease_ns
        if table.longest_beyond_lease_ns > most:
            raise ConfigError(
                "serve_beyond_lease_seconds: may not grow while the program runs, because Flowless was told "
                f"{most / NS_PER_SECOND:g} at the start; restart the sidecar"
            )
        return config, table

    def _take_over(self, config: SidecarConfig, table: RouteTable) -> None:
        self._routes.table = table
        self._routes.problems = ()
        self._log.info("rules read again", file=str(self._path), rules=len(table.rules))
        # What goes into the table is in effect now.
        taken = {name: getattr(self._running, name) for name in _OF_THE_TABLE}
        if replace(config, **taken) != self._running:
            self._log.warning("settings other than the rules changed too; they need a restart", file=str(self._path))

    def _keep(self, problems: tuple[str, ...], details: dict[str, Any]) -> None:
        self._routes.problems = problems
        self._log.error("rules not replaced; those from before hold", file=str(self._path), **details)

    def _fingerprint(self) -> small_file.Fingerprint | None:
        try:
            return small_file.fingerprint(self._path)
        except OSError:
            return None  # gone: reading it says so, as a problem
