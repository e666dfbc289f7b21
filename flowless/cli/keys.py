"""`flowless keys …`."""

from datetime import timedelta
from typing import Annotated

import typer

from flowless.bootstrap import Flowless
from flowless.cli.common import BY, ConfigOption, JsonOption, run, show, show_one
from flowless.domain.signing_keys import MAX_OVERLAP, SigningKey

app = typer.Typer(help="Keys that sign trust tokens.", no_args_is_help=True)


@app.command("rotate")
def _rotate(
    overlap_days: Annotated[
        float,
        typer.Option("--overlap-days", min=0, max=MAX_OVERLAP.days, help="Tokens of the key before stay good."),
    ] = 30.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the next key sign, retire the one that signs now, and make a next one. The first time, make both.

    \b
    Examples:
      flowless keys rotate
      flowless keys rotate --overlap-days 7
    """
    overlap = timedelta(days=overlap_days)
    active = run(config, lambda flowless: flowless.keys.rotate(overlap=overlap, by=BY))
    show_one({"active": active.key_id}, as_json=as_json)


@app.command("list")
def _list(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List signing keys, newest first. Private parts are never shown.

    \b
    Examples:
      flowless keys list --json
    """

    async def work(flowless: Flowless) -> list[dict[str, object]]:
        return [_row(key, flowless.keys.public_text(key)) for key in await flowless.keys.all()]

    show(run(config, work), as_json=as_json, empty="no signing keys; `flowless keys rotate`")


def _row(key: SigningKey, public_text: str) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "state": key.state.value,
        "created": key.created_at,
        "retired": key.retired_at,
        "verifies_until": key.expires_at,
        "public_key": public_text,
    }


@app.command("destroy")
def _destroy(
    key_id: Annotated[str, typer.Argument(help="PASERK id, k4.pid.…")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Erase a retired key's private part at once: the tokens that it signed are void. Idempotent.

    \b
    Examples:
      flowless keys destroy k4.pid.9ShR3xc8-qVJ_di0tc9nx0IDIqbatdeM2mqLFBJsKRHs --yes
    """
    if not yes:
        typer.confirm(f"Destroy {key_id}? Tokens that it signed cannot be redeemed any more.", abort=True)
    run(config, lambda flowless: flowless.keys.destroy(key_id, by=BY))
    show_one({"destroyed": key_id}, as_json=as_json)


@app.command("rewrap")
def _rewrap(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Wrap all private parts under the first key of signing_key_file; the keys after it can go then.

    \b
    Examples:
      flowless keys rewrap
    """
    show_one({"rewrapped": run(config, lambda flowless: flowless.keys.rewrap(by=BY))}, as_json=as_json)
