"""`flowless gc`: do now what every replica does from time to time."""

from typing import Annotated

import typer

from flowless.bootstrap import Flowless
from flowless.cli.common import ConfigOption, JsonOption, run, show_one
from flowless.ports.housekeeping import Kind


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("gc")(_gc)


def _gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete sessions and bridge secrets long past their end, and old rows of the revocation log.

    Replicas that serve do this by themselves, in small batches, one replica at a time. Prints the number of rows of
    each kind; ends early when a replica is at it.

    \b
    Examples:
      flowless gc --dry-run
      flowless gc --json
    """

    async def work(flowless: Flowless) -> dict[str, object]:
        if dry_run:
            return {kind.value: rows for kind, rows in (await flowless.housekeeping.count()).items()}
        deleted = dict.fromkeys(Kind, 0)
        while True:
            found = await flowless.housekeeping.run_once()
            deleted = {kind: rows + found.deleted[kind] for kind, rows in deleted.items()}
            if found.complete or found.others_at_it:
                counts: dict[str, object] = {kind.value: rows for kind, rows in deleted.items()}
                return counts | ({"ended_early": "a replica is at it"} if found.others_at_it else {})

    show_one(run(config, work), as_json=as_json)
