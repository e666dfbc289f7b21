"""`flowless sessions …`."""

from typing import Annotated

import typer

from flowless.bootstrap import Flowless
from flowless.cli.common import ConfigOption, JsonOption, run, show, show_one
from flowless.cli.users import UserArgument, find_user
from flowless.services.sessions import SessionPage
from trust_core import modes

app = typer.Typer(help="Sessions, by handle; session ids are never shown.", no_args_is_help=True)


@app.command("list")
def _list(
    user: UserArgument,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a user's live sessions, newest first.

    \b
    Examples:
      flowless sessions list ada@example.org
    """

    async def work(flowless: Flowless) -> SessionPage:
        found = await find_user(flowless, user)
        return await flowless.sessions.list(found.id, page_size=limit, before=None)

    rows = [
        {
            "handle": session.handle,
            "created": session.created_at,
            "last_seen": session.last_seen_at,
            "expires": session.expires_at,
            "client_ip": modes.unpack_ip(session.binding.client_ip),
            "device": session.device_name,
        }
        for session in run(config, work).sessions
    ]
    show(rows, as_json=as_json, empty="no live sessions")


@app.command("revoke")
def _revoke(
    handle: Annotated[str, typer.Argument(help="Session handle, sh_…")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke one session. Idempotent.

    \b
    Examples:
      flowless sessions revoke sh_0123456789ABCDEFGHIJKL
    """
    revision = run(config, lambda flowless: flowless.sessions.revoke(handle))
    show_one({"revoked": handle, "revision": revision}, as_json=as_json)


@app.command("revoke-user")
def _revoke_user(
    user: UserArgument,
    except_handle: Annotated[str, typer.Option("--except", help="Handle of the session that stays.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke all of a user's sessions. Idempotent.

    \b
    Examples:
      flowless sessions revoke-user ada@example.org
    """

    async def work(flowless: Flowless) -> int:
        found = await find_user(flowless, user)
        return await flowless.sessions.revoke_all_of_user(found.id, except_handle=except_handle)

    show_one({"revoked_all_of": user, "revision": run(config, work)}, as_json=as_json)
