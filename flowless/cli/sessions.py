"""`flowless sessions …`."""

from dataclasses import asdict
from typing import Annotated

import typer

from flowless.bootstrap import Flowless
from flowless.cli.common import BY, EXIT_STORAGE, ConfigOption, JsonOption, run, show, show_one
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


WaitOption = Annotated[
    float,
    typer.Option("--wait", min=0, max=60, metavar="SECONDS", help="Until no sidecar says yes any more."),
]


async def _waited(flowless: Flowless, revision: int, seconds: float) -> dict[str, object]:
    """Say what a revoke wrote and, if asked, where the sidecars stood."""
    if not seconds:
        return {"revision": revision}
    barrier = await flowless.barriers.wait(revision, timeout_seconds=seconds)
    return {"revision": revision, **{f"barrier_{name}": value for name, value in asdict(barrier).items()}}


def _show_revoked(what: dict[str, object], result: dict[str, object], *, as_json: bool) -> None:
    show_one({**what, **result}, as_json=as_json)
    if result.get("barrier_reached") is False:
        raise typer.Exit(EXIT_STORAGE)


@app.command("revoke")
def _revoke(
    handle: Annotated[str, typer.Argument(help="Session handle, sh_…")],
    wait: WaitOption = 0.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke one session. Idempotent. With --wait, exits with 3 when the time was over before it was certain.

    \b
    Examples:
      flowless sessions revoke sh_0123456789ABCDEFGHIJKL
      flowless sessions revoke sh_0123456789ABCDEFGHIJKL --wait 5
    """

    async def work(flowless: Flowless) -> dict[str, object]:
        return await _waited(flowless, await flowless.sessions.revoke(handle, by=BY), wait)

    _show_revoked({"revoked": handle}, run(config, work), as_json=as_json)


@app.command("revoke-user")
def _revoke_user(
    user: UserArgument,
    except_handle: Annotated[str, typer.Option("--except", help="Handle of the session that stays.")] = "",
    wait: WaitOption = 0.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke all of a user's sessions. Idempotent. With --wait, exits with 3 when it was not certain in time.

    \b
    Examples:
      flowless sessions revoke-user ada@example.org
    """

    async def work(flowless: Flowless) -> dict[str, object]:
        found = await find_user(flowless, user)
        revision = await flowless.sessions.revoke_all_of_user(found.id, except_handle=except_handle, by=BY)
        return await _waited(flowless, revision, wait)

    _show_revoked({"revoked_all_of": user}, run(config, work), as_json=as_json)
