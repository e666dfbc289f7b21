"""`flowless top`: what replicas and sidecars do, live."""

import asyncio
import json
import os
import signal
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Annotated, Final

import typer
from rich.console import Console, ConsoleDimensions
from rich.live import Live

from flowless.adapters.sql.bridges import SqlBridgeStore
from flowless.adapters.sql.database import Database
from flowless.adapters.sql.migrate import SchemaError, require_served
from flowless.adapters.sql.replicas import SqlReplicaRegistry
from flowless.adapters.sql.revocation_log import SqlRevocationLog
from flowless.bootstrap import open_database
from flowless.cli import top_json
from flowless.cli.common import EXIT_SETTINGS, ConfigOption, JsonOption, exit_code_of, fail, settings_from
from flowless.cli.top_figures import Look, Observer, View, in_words
from flowless.cli.top_screen import Sort, ordered, screen
from flowless.config import Settings
from trust_core.clock import SystemClock
from trust_core.errors import TrustError

_PIPED_WIDTH: Final = 140
_QUIT: Final = frozenset(b"qQ\x03\x04")
"""q, Ctrl-C, Ctrl-D."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("top")(_top)


def _top(
    interval: Annotated[
        float, typer.Option(min=0.5, max=3600, metavar="SECONDS", help="Between two looks at the database.")
    ] = 2.0,
    sort: Annotated[Sort, typer.Option(help="Which sidecars come first.")] = Sort.TROUBLE,
    limit: Annotated[int, typer.Option(min=0, help="Sidecars to show; 0: all, or as many as fit.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="Look once, print, and end.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show replicas and sidecars: lease, lag, hit ratio, answers, denials. `q` ends it.

    Replicas report every 5 seconds, sidecars every 2: what is shown is that old. Rates are of the time between two
    reports of a sidecar; EVER is since its start. With --json, or where the output is no terminal, it looks once, and
    rates of an interval are not known then. It reads the database: no replica need be running.

    \b
    Examples:
      flowless top
      flowless top --sort denials --interval 5
      flowless top --once --json | jq '.sidecars[] | select(.lease != "held")'
    """
    settings = settings_from(config)
    output = _Output(sort=sort, limit=limit, as_json=as_json)
    live = not (once or as_json) and sys.stdin.isatty() and sys.stdout.isatty()
    try:
        asyncio.run(_follow(settings, output, interval) if live else _look_once(settings, output))
    except SchemaError as error:
        fail(str(error), EXIT_SETTINGS)
    except TrustError as error:
        fail(error.message, exit_code_of(error))


class _Output:
    """What was asked to be shown, and on what."""

    def __init__(self, *, sort: Sort, limit: int, as_json: bool) -> None:
        self._sort = sort
        self._limit = limit
        self._as_json = as_json
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
        self.console = Console(width=width, highlight=False, markup=False, emoji=False)

    def print(self, view: View) -> None:
        """Print the view as it is, whatever its length."""
        rows = ordered(view.sidecars, self._sort)[: self._limit or None]
        if self._as_json:
            typer.echo(json.dumps(top_json.as_json(view, rows), indent=2))
        else:
            self.console.print(screen(view, rows, width=self.console.width))

    def draw(self, live: Live, view: View, trouble: str) -> None:
        """Fill the screen, of whatever size it is now."""
        rows = ordered(view.sidecars, self._sort)[: self._limit or None]
        # Asked anew each time, and not of COLUMNS, which a shell may have exported long ago.
        size = self.console.size = ConsoleDimensions(*os.get_terminal_size(sys.stdout.fileno()))
        if trouble:
            view = replace(view, warnings=[trouble, *view.warnings])
        note = "q quits"
        live.update(screen(view, rows, width=size.width, height=size.height, note=note), refresh=True)


async def _look_once(settings: Settings, output: _Output) -> None:
    async with _looking(settings) as looker:
        output.print(Observer().view(await looker.look()))


async def _follow(settings: Settings, output: _Output, interval: float) -> None:
    """Look and draw until somebody quits. A database that fails meanwhile is asked again, and the screen says so."""
    async with _looking(settings) as looker:
        observer = Observer()
        view = observer.view(await looker.look())
        trouble = ""
        with _commands() as commands, Live(console=output.console, screen=True, auto_refresh=False) as live:
            while True:
                output.draw(live, view, trouble)
                if await commands.quit_within(interval, redraw=partial(output.draw, live, view, trouble)):
                    return
                looking = asyncio.ensure_future(looker.look())
                if await commands.quit_before(looking):
                    return
                try:
                    view, trouble = observer.view(looking.result()), ""
                except TrustError:
                    old = in_words(looker.elapsed() - view.look.elapsed)
                    trouble = f"the database cannot be read: this is from {old} ago"


class _Looker:
    """Reads what there is to see."""

    def __init__(self, database: Database) -> None:
        self._clock = SystemClock()
        self._log = SqlRevocationLog(database=database)
        self._replicas = SqlReplicaRegistry(database=database)
        self._bridges = SqlBridgeStore(database=database)

    def elapsed(self) -> timedelta:
        """Time by the clock that looks are dated by."""
        return timedelta(microseconds=self._clock.elapsed_ns() // 1_000)

    async def look(self) -> Look:
        """Raise what storage raises."""
        # Before the replicas: what they have reported may then be ahead of this, but is not behind for its sake.
        head = await self._log.head()
        replicas = await self._replicas.list()
        bridges = await self._bridges.list()
        return Look(
            at=self._clock.now(),
            elapsed=self.elapsed(),
            revision=head.revision,
            replicas=replicas,
            bridge_names={bridge.id: bridge.name for bridge in bridges},
        )


@asynccontextmanager
async def _looking(settings: Settings) -> AsyncIterator[_Looker]:
    if settings.database_file and not settings.database_file.exists():
        raise SchemaError(f"no file {settings.database_file}: run `flowless migrate`")
    database = open_database(settings)
    try:
        await require_served(database)
        yield _Looker(database)
    finally:
        await database.close()


class _Commands:
    """What the one who watches wants: to quit, or another size."""

    def __init__(self) -> None:
        self._quit = asyncio.Event()
        self._resized = asyncio.Event()

    def quit(self) -> None:
        """Note that it is enough."""
        self._quit.set()

    def resized(self) -> None:
        """Note another size."""
        self._resized.set()

    def pressed(self, keys: bytes) -> None:
        """Note keys; none at all means that the terminal has gone."""
        if not keys or _QUIT.intersection(keys):
            self.quit()

    async def quit_within(self, seconds: float, *, redraw: Callable[[], None]) -> bool:
        """Wait for so long, or until it is enough; draw again at another size."""
        until = asyncio.get_running_loop().time() + seconds
        while (left := until - asyncio.get_running_loop().time()) > 0:
            waiting = [asyncio.create_task(event.wait()) for event in (self._quit, self._resized)]
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            if self._quit.is_set():
                return True
            if self._resized.is_set():
                self._resized.clear()
                redraw()
        return False

    async def quit_before(self, looking: "asyncio.Future[Look]") -> bool:
        """Wait for a look, or until it is enough: then it is given up."""
        quitting = asyncio.create_task(self._quit.wait())
        await asyncio.wait((looking, quitting), return_when=asyncio.FIRST_COMPLETED)
        quitting.cancel()
        if self._quit.is_set():
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        return self._quit.is_set()


@contextmanager
def _commands() -> Iterator[_Commands]:
    """Take keys one at a time and unseen, and signals; leave the terminal as it was found."""
    commands, loop, terminal = _Commands(), asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    changed = termios.tcgetattr(terminal)
    # Without signals of its own: Ctrl-C is a key to quit by, and Ctrl-Z would leave the screen behind.
    changed[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, commands.quit)
    loop.add_signal_handler(signal.SIGWINCH, commands.resized)
    loop.add_reader(terminal, lambda: commands.pressed(os.read(terminal, 64)))
    termios.tcsetattr(terminal, termios.TCSADRAIN, changed)
    try:
        yield commands
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        loop.remove_reader(terminal)
        for number in (*signals, signal.SIGWINCH):
            loop.remove_signal_handler(number)
