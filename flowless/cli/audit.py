"""`flowless audit …`."""

import asyncio
import csv
import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from flowless.bootstrap import Flowless
from flowless.cli.common import EXIT_REFUSED, ConfigOption, JsonOption, fail, plain, run, show, show_one
from flowless.cli.users import find_user
from flowless.domain.audit import AuditRecord
from flowless.services.audit import Finding

app = typer.Typer(help="Who did what to whom: the audit log, chained by hashes.", no_args_is_help=True)

_FOLLOW_SECONDS = 1.0
_COLUMNS = [
    *("sequence", "time", "action", "outcome", "actor", "subject", "user_id"),
    *("client_ip", "request_id", "details", "hash"),
]


def row_of(record: AuditRecord) -> dict[str, Any]:
    """Fields of an event, as they are exported."""
    event = record.event
    return {
        "sequence": record.sequence,
        "time": plain(event.time),
        "action": str(event.action),
        "outcome": str(event.outcome),
        "actor": event.actor,
        "subject": event.subject,
        "user_id": event.user_id,
        "client_ip": event.client_ip,
        "request_id": event.request_id,
        "details": dict(event.details),
        "hash": record.hash.hex(),
    }


def _line(record: AuditRecord) -> dict[str, object]:
    event = record.event
    return {
        "sequence": record.sequence,
        "time": event.time,
        "action": str(event.action),
        "outcome": str(event.outcome),
        "actor": event.actor,
        "subject": event.subject,
        "client_ip": event.client_ip,
        "details": event.details,
    }


@app.command("tail")
def _tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=500, help="How many.")] = 20,
    user: Annotated[str, typer.Option(help="Only of this user: id, e-mail address or user name.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted, in JSON lines.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last events, oldest first.

    \b
    Examples:
      flowless audit tail
      flowless audit tail --user ada@example.org --lines 100
      flowless audit tail --follow
    """

    async def work(flowless: Flowless) -> list[AuditRecord]:
        user_id = (await find_user(flowless, user)).id if user else ""
        page = await flowless.audit.page(page_size=lines, before=None, user_id=user_id)
        records = list(reversed(page.records))
        if not follow:
            return records
        last = records[-1].sequence if records else 0
        _print_lines(row_of(record) for record in records)
        while True:
            async for record in flowless.audit.records(after=last):
                last = record.sequence
                if not user_id or record.event.user_id == user_id:
                    _print_lines([row_of(record)])
            await asyncio.sleep(_FOLLOW_SECONDS)

    records = run(config, work)
    rows: list[dict[str, object]] = [row_of(record) if as_json else _line(record) for record in records]
    show(rows, as_json=as_json, empty="no events")


def _print_lines(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


@app.command("export")
def _export(
    after: Annotated[int, typer.Option("--after", min=0, help="Begin after this sequence.")] = 0,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV instead of JSON lines.")] = False,
    config: ConfigOption = None,
) -> None:
    """Write all events to standard output, oldest first, a JSON line each.

    \b
    Examples:
      flowless audit export > audit.jsonl
      flowless audit export --after 1000 --csv
    """

    async def work(flowless: Flowless) -> None:
        writer = csv.DictWriter(sys.stdout, _COLUMNS)
        if as_csv:
            writer.writeheader()
        async for record in flowless.audit.records(after=after):
            row = row_of(record)
            if as_csv:
                writer.writerow(row | {"details": json.dumps(row["details"])})
            else:
                _print_lines([row])

    run(config, work)


@app.command("verify")
def _verify(
    expect: Annotated[
        str, typer.Option(metavar="SEQUENCE:HASH", help="What an earlier run printed, kept where nobody can write.")
    ] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find out whether an event was altered, removed, moved or added. Exits with 1 if so.

    Note what it prints somewhere else and give it to the next run: only that finds a log that was written anew as a
    whole.

    \b
    Examples:
      flowless audit verify
      flowless audit verify --expect 1042:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    """
    expected = _expected(expect)
    found: Finding = run(config, lambda flowless: flowless.audit.verify(expected=expected))
    if found.problem:
        fail(found.problem, EXIT_REFUSED)
    show_one({"checked": found.checked, "end": f"{found.sequence}:{found.hash.hex()}"}, as_json=as_json)


def _expected(text: str) -> tuple[int, bytes] | None:
    if not text:
        return None
    sequence, _, hashed = text.partition(":")
    try:
        return int(sequence), bytes.fromhex(hashed)
    except ValueError:
        fail("--expect takes what an earlier run printed: SEQUENCE:HASH", EXIT_REFUSED)
