"""`flowless bridges …`."""

import re
from datetime import datetime, timedelta
from typing import Annotated

import typer

from flowless.bootstrap import Flowless
from flowless.cli.common import BY, ConfigOption, JsonOption, run, show, show_one
from flowless.domain.bridges import Bridge, Scope
from flowless.services.bridges import NewSecret

app = typer.Typer(help="Servers that may call Flowless, and their secrets.", no_args_is_help=True)

_DURATION = re.compile(r"(?:(\d{1,7})d)?(?:(\d{1,7})h)?(?:(\d{1,7})m)?(?:(\d{1,7})s)?", re.ASCII)
_SCOPES = ", ".join(scope.name.lower() for scope in Scope)


def _scopes(names: list[str]) -> frozenset[Scope]:
    try:
        return frozenset(Scope[name.strip().upper()] for name in names)
    except KeyError as error:
        raise typer.BadParameter(f"{error.args[0].lower()} is not one of: {_SCOPES}") from None


def _overlap(text: str) -> timedelta:
    parts = _DURATION.fullmatch(text)
    if parts is None or not text:
        raise typer.BadParameter("numbers with d, h, m and s in this order, for example 24h or 1h30m")
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _row(bridge: Bridge, now: datetime) -> dict[str, object]:
    live = bridge.live_secrets(now)
    return {
        "id": bridge.id,
        "name": bridge.name,
        "scopes": sorted(scope.name.lower() for scope in bridge.scopes),
        "client": bridge.client_id,
        "secrets": len(live),
        "created": bridge.created_at,
        "last_used": bridge.last_used_at,
        "old_secrets_expire": max((s.expires_at for s in live if s.expires_at is not None), default=None),
        "old_secrets_used": max(
            (s.last_used_at for s in live if s.expires_at is not None and s.last_used_at is not None), default=None
        ),
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
    client_id: Annotated[
        str, typer.Option(help="Bind it to a client certificate: spiffe://trust-domain/path, or a DNS name.")
    ] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a bridge and print its first secret, once.

    \b
    Examples:
      flowless bridges create shop
      flowless bridges create shop --scope validate --scope identity --scope sessions
      flowless bridges create shop --client-id spiffe://example.org/ns/shop/sa/web
      flowless bridges create shop --json | jq -r .secret > /etc/bridge-sidecar/secret
    """
    scopes = _scopes(scope or ["validate"])

    async def work(flowless: Flowless) -> NewSecret:
        return await flowless.bridges.create(name, scopes, client_id=client_id, by=BY)

    _show_secret(run(config, work), as_json=as_json)


@app.command("list")
def _list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List bridges, without secrets: how many work now, when they were used last, and when old ones expire.

    Uses of the last half minute may not be written yet.

    \b
    Examples:
      flowless bridges list
      flowless bridges list --json
    """

    async def work(flowless: Flowless) -> list[dict[str, object]]:
        return [_row(bridge, flowless.clock.now()) for bridge in await flowless.bridges.list()]

    show(run(config, work), as_json=as_json, empty="no bridges; `flowless bridges create NAME`")


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


@app.command("bind")
def _bind(
    bridge: Annotated[str, typer.Argument(help="Id or name.")],
    client_id: Annotated[
        str, typer.Argument(help="spiffe://trust-domain/path, a DNS name, or '' to free the bridge.")
    ],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bind a bridge to a client: its secrets are good only with that client's certificate from now on.

    \b
    Examples:
      flowless bridges bind shop spiffe://example.org/ns/shop/sa/web
      flowless bridges bind shop shop.internal
      flowless bridges bind shop ''
    """

    async def work(flowless: Flowless) -> Bridge:
        return await flowless.bridges.bind((await flowless.bridges.find(bridge)).id, client_id, by=BY)

    bound = run(config, work)
    show_one({"id": bound.id, "name": bound.name, "client": bound.client_id}, as_json=as_json)


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
