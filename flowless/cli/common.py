"""What the commands share: opening Flowless, exit codes, output for people and for programs."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import typer

from flowless.adapters.sql.migrate import SchemaError
from flowless.bootstrap import Flowless, open_flowless
from flowless.cli.printable import printable
from flowless.config import ConfigError, Settings, load
from flowless.domain.audit import OPERATOR, Actor
from trust_core import core_dumps, logs
from trust_core.errors import Code, TrustError

T = TypeVar("T")

BY: Final = Actor(name=OPERATOR)
"""Who does what is done on the command line, for the audit log."""
EXIT_REFUSED: Final = 1
EXIT_STORAGE: Final = 3
EXIT_SETTINGS: Final = 4

ConfigOption = Annotated[
    Path | None, typer.Option("--config", envvar="FLOWLESS_CONFIG", help="TOML file; FLOWLESS_* variables win.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def fail(message: str, code: int) -> NoReturn:
    """Print the message to standard error and exit."""
    typer.echo(f"flowless: {message}", err=True)
    raise typer.Exit(code)


def settings_from(config: Path | None, *, worker: int | None = None, **overrides: Any) -> Settings:
    """Read the settings and set up logging, or exit saying what to mend."""
    try:
        settings = load(config, **overrides)
        settings.check_files()  # readable now: whoever needs them later finds them so
    except ConfigError as error:
        fail(str(error), EXIT_SETTINGS)
    if not settings.core_dumps:
        core_dumps.forbid()
    logs.configure(level=settings.log_level, style=settings.log_format, worker=worker)
    return settings


def exit_code_of(error: TrustError) -> int:
    """Exit code of an error of ours."""
    return EXIT_STORAGE if error.code is Code.UNAVAILABLE else EXIT_REFUSED


def run(config: Path | None, work: Callable[[Flowless], Awaitable[T]]) -> T:
    """Open Flowless, do the work, close it; exit with the right code when it fails."""

    async def opened() -> T:
        async with open_flowless(settings) as flowless:
            return await work(flowless)

    settings = settings_from(config)
    try:
        return asyncio.run(opened())
    except SchemaError as error:
        fail(str(error), EXIT_SETTINGS)
    except TrustError as error:
        fail(error.message, exit_code_of(error))


def plain(value: object) -> object:
    """Value as JSON shows it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, frozenset | set):
        return sorted(str(item) for item in value)
    return value


def show(rows: Sequence[Mapping[str, object]], *, as_json: bool, empty: str) -> None:
    """Print rows as an aligned table, or as a JSON list."""
    if as_json:
        typer.echo(json.dumps([{key: plain(value) for key, value in row.items()} for row in rows], indent=2))
        return
    if not rows:
        typer.echo(empty)
        return
    names = list(rows[0])
    cells = [
        [name.upper().replace("_", " ") for name in names],
        *([_cell(row[name]) for name in names] for row in rows),
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def show_one(row: Mapping[str, object], *, as_json: bool) -> None:
    """Print one record, a field a line, or as a JSON object."""
    if as_json:
        typer.echo(json.dumps({key: plain(value) for key, value in row.items()}, indent=2))
        return
    width = max(len(key) for key in row)
    for key, value in row.items():
        typer.echo(f"{key.replace('_', ' ').ljust(width)}  {_cell(value)}")


def _cell(value: object) -> str:
    return printable(_text(value))


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return json.dumps(dict(value), ensure_ascii=False) if value else "-"
    return str(plain(value))
