"""`flowless after-restore`: make a database that was restored from a backup safe to serve from."""

from typing import Annotated

import typer

from flowless.adapters.sql.restore import revoke_after_restore
from flowless.bootstrap import Flowless
from flowless.cli.common import BY, ConfigOption, JsonOption, run, show_one


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("after-restore")(_after_restore)


def _after_restore(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke every session, void every trust token and rename the log, before serving from a restored backup.

    A backup brings sessions back to life that were revoked since it was made, and the log counts on from where it
    stood then. Restore, run this, then start the replicas; everybody has to log in again. What else changed since
    the backup is gone too: passwords, disabled users, revoked bridges, destroyed signing keys; look at `flowless
    bridges list` and `flowless keys list`. Mail that had been sent since may be sent again, without links that work.

    \b
    Examples:
      flowless after-restore
      flowless after-restore --yes --json
    """
    if not yes:
        typer.confirm("Revoke all sessions of all users?", abort=True)

    async def work(flowless: Flowless) -> dict[str, object]:
        users = await revoke_after_restore(flowless.database, now=flowless.clock.now(), by=BY)
        live = [bridge for bridge in await flowless.bridges.list() if bridge.revoked_at is None]
        return {
            "users_whose_sessions_ended": users,
            "log": (await flowless.log.head()).log_id,
            "live_bridges": len(live),
        }

    show_one(run(config, work), as_json=as_json)
