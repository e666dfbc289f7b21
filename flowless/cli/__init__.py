"""The command `flowless`. Each group of commands has a module; `common` holds what they share."""

import os
from typing import Annotated, NoReturn

import typer

from flowless.cli import audit, bridges, doctor, gc, keys, mail, restore, serve, sessions, top, users
from trust_core.stopping import end_as_first_process
from trust_core.version import __version__

_EPILOG = (
    "Exit codes: 0 done; 1 refused or not found; 2 wrong usage; 3 the database cannot be used now; "
    "4 settings or schema have to be mended. "
    "Settings come from FLOWLESS_* variables over --config FILE."
)

app = typer.Typer(
    name="flowless",
    help="Identities, sessions and single-use trust tokens. The only owner of truth.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
serve.register(app)
doctor.register(app)
gc.register(app)
restore.register(app)
top.register(app)
app.add_typer(bridges.app, name="bridges")
app.add_typer(users.app, name="users")
app.add_typer(sessions.app, name="sessions")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(mail.app, name="mail")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _flowless(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Identities, sessions and single-use trust tokens. The only owner of truth."""


def main() -> NoReturn:
    """Run the command line."""
    # The database holds personal data and hashes: whatever Flowless creates is for its own user only.
    os.umask(0o077)
    end_as_first_process()
    app()
    raise SystemExit(0)
