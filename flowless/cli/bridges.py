"""`flowless bridges …`."""

from datetime import timedelta
from typing import Annotated

import typer

from flowless.bootstrap import Flowless
from flowless.cli.common import BY, ConfigOption, JsonOption, run, show, show_one
from flowless.domain.bridges import Bridge, Scope
from flowless.services.bridges import NewSecret

app = typer.Typer(help="Servers that may call Flowless, and their secrets.", no_args_is_help=True)

_SCOPES = ", ".join(scope.name.lower() for scope in Scope)


def _scopes(names: list[str]) -> frozenset[Scope]:
    try:
        return frozenset(Scope[name.strip().upper()] for name in names)
    except KeyError as error:
        raise typer.BadParameter(f"{error.args[0].lower()} is not one of: {_SCOPES}") from None


def _overlap(text: str) -> timedelta:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.isascii() or not number.isdigit() or len(number) > 7:
        raise typer.BadParameter("a number with s, m, h or d, for example 24h")
    return timedelta(seconds=int(number) * units[unit])


def _row(bridge: Bridge) -> dict[str, object]:
    return {
        "id": bridge.id,
        "name": bridge.name,
        "scopes": sorted(scope.name.lower() for scope in bridge.scopes),
        "secrets": len(bridge.secrets),
        "created": bridge.created_at,
        "revoked": bridge.revoked_at,
    }


def _show_secret(new: NewSecret, *, as_json: bool) -> None:
    show_one({"id": new.bridge.id, "name": new.bridge.name, "secret": new.secret}, as_json=as_json)
    if not as_json:
        typer.echo("The secret is shown this once: put it into a file that only the sidecar can read.", err=True)


@app.command("create")
def _create(
    name: Annotated[str, typer.Argument(help="Unique: letters, digits, '.', '_', '-'.")],
    scope: Annotated[list[str] | None, typer.Option(help=f"Repeatable; of: {_SCOPES}. Default: validate.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a bridge and print its first secret, once.

    \b
    Examples:
      flowless bridges create shop
      flowless bridges create shop --scope validate --scope identity --scope sessions
      flowless bridges create shop --json | jq -r .secret > /etc/bridge-sidecar/secret
    """
    scopes = _scopes(scope or ["validate"])
    _show_secret(run(config, lambda flowless: flowless.bridges.create(name, scopes, by=BY)), as_json=as_json)


@app.command("list")
def _list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List bridges, without secrets.

    \b
    Examples:
      flowless bridges list
      flowless bridges list --json
    """
    found = run(config, lambda flowless: flowless.bridges.list())
    show([_row(bridge) for bridge in found], as_json=as_json, empty="no bridges; `flowless bridges create NAME`")


@app.command("rotate")
def _rotate(
    bridge: Annotated[str, typer.Argument(help="Id or name.")],
    overlap: Annotated[str, typer.Option(help="How long the secrets before stay good: 30m, 24h, 7d.")] = "24h",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a secret and print it, once; the secrets before expire after the overlap.

    \b
    Examples:
      flowless bridges rotate shop
      flowless bridges rotate shop --overlap 1h
    """
    time = _overlap(overlap)

    async def work(flowless: Flowless) -> NewSecret:
        return await flowless.bridges.rotate((await flowless.bridges.find(bridge)).id, overlap=time, by=BY)

    _show_secret(run(config, work), as_json=as_json)


@app.command("revoke")
def _revoke(
    bridge: Annotated[str, typer.Argument(help="Id or name.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a bridge with all of its secrets. Idempotent; cannot be undone.

    \b
    Examples:
      flowless bridges revoke shop
    """

    async def work(flowless: Flowless) -> int:
        return await flowless.bridges.revoke((await flowless.bridges.find(bridge)).id, by=BY)

    show_one({"revoked": bridge, "revision": run(config, work)}, as_json=as_json)
