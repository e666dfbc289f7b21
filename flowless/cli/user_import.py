"""`flowless users import`."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flowless.bootstrap import Flowless
from flowless.cli.common import BY, EXIT_REFUSED, ConfigOption, JsonOption, fail, run, show_one
from flowless.domain.users import Profile
from flowless.services.user_import import MAX_BATCH, ImportedUser, Rejection

_TEXTS = ("user_name", "name", "last_name", "phone", "picture_url", "user_type", "locale")
_FIELDS = frozenset({"email", "email_verified", "password_hash", "roles", "attributes", "disabled", *_TEXTS})


class LineError(ValueError):
    """A line that is no record; the text says what is wrong and nothing of what it holds."""


def register(app: typer.Typer) -> None:
    """Add the command to the group."""
    app.command("import")(_import)


def _import(
    file: Annotated[Path, typer.Argument(help="JSON lines, or CSV with a header when its name ends with .csv.")],
    report: Annotated[Path | None, typer.Option(help="Write refused lines with reasons here, as JSON lines.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every line, add nobody.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add another system's users with their password hashes.

    Fields: email, email_verified, password_hash, user_name, name, last_name, phone, picture_url, user_type, locale,
    roles, attributes, disabled. Hashes: PHC strings of Argon2, bcrypt, scrypt or PBKDF2; each is replaced by Argon2id
    at the user's first login. Users whose address is here already stay as they are: a run that broke off is repeated.
    Exits with 1 when lines were refused.

    \b
    Examples:
      flowless users import users.jsonl --dry-run
      flowless users import users.csv --report refused.jsonl
    """
    try:
        total = sum(1 for _ in _lines(file))
        sink = report.open("w", encoding="utf-8") if report is not None else None
    except (OSError, UnicodeDecodeError) as error:
        fail(f"cannot read or write: {error.strerror if isinstance(error, OSError) else 'not UTF-8'}", EXIT_REFUSED)
    try:
        counts = run(config, lambda flowless: _add(flowless, file, total, sink, dry_run=dry_run))
    finally:
        if sink is not None:
            sink.close()
    show_one(counts, as_json=as_json)
    if counts["refused"]:
        raise typer.Exit(EXIT_REFUSED)


async def _add(
    flowless: Flowless, file: Path, total: int, sink: IO[str] | None, *, dry_run: bool
) -> dict[str, object]:
    added = present = refused = 0
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=total)
        for users, bad in _batches(file):
            rejections = list(bad)
            if users:
                result = await flowless.user_import.add(users, by=BY, dry_run=dry_run)
                added, present = added + result.added, present + result.present
                rejections += result.rejections
            refused += len(rejections)
            for each in sorted(rejections, key=lambda rejection: rejection.number):
                _tell(each, sink)
            progress.advance(task, len(users) + len(bad))
    return {"lines": total, "added": added, "present": present, "refused": refused}


def _tell(rejection: Rejection, sink: IO[str] | None) -> None:
    if sink is not None:
        sink.write(json.dumps({"line": rejection.number, "reason": rejection.reason}) + "\n")
    else:
        typer.echo(f"line {rejection.number}: {rejection.reason}", err=True)


def _batches(file: Path) -> Iterator[tuple[list[ImportedUser], list[Rejection]]]:
    users: list[ImportedUser] = []
    bad: list[Rejection] = []
    for number, record in _lines(file):
        try:
            users.append(_user(number, record))
        except LineError as error:
            bad.append(Rejection(number=number, reason=str(error)))
        if len(users) + len(bad) == MAX_BATCH:
            yield users, bad
            users, bad = [], []
    if users or bad:
        yield users, bad


def _lines(file: Path) -> Iterator[tuple[int, object]]:
    """Line numbers with what stands there: a mapping, or the text that is none."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        if file.suffix.lower() == ".csv":
            reader = csv.DictReader(lines)
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error:
                    yield reader.line_num, None
                else:
                    yield reader.line_num, {key: value for key, value in row.items() if value}
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):
                    yield number, None


def _user(number: int, record: object) -> ImportedUser:
    if not isinstance(record, Mapping):
        raise LineError("not a JSON object, or not a row")
    unknown = [key for key in record if key not in _FIELDS]
    if unknown:
        raise LineError(f"unknown fields: {', '.join(ascii(key)[:40] for key in unknown[:5])}")
    return ImportedUser(
        number=number,
        email=_text(record, "email"),
        email_verified=_flag(record, "email_verified"),
        password_hash=_text(record, "password_hash"),
        profile=Profile(
            **{name: _text(record, name) for name in _TEXTS}, roles=_roles(record), attributes=_attributes(record)
        ),
        disabled=_flag(record, "disabled"),
    )


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name) or ""
    if not isinstance(value, str):
        raise LineError(f"{name}: text")
    return value


def _flag(record: Mapping[str, Any], name: str) -> bool:
    value = record.get(name, False)
    known = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    if not isinstance(value, bool | str) or value not in known:
        raise LineError(f"{name}: true or false")
    return known[value]


def _roles(record: Mapping[str, Any]) -> tuple[str, ...]:
    value = record.get("roles") or []
    if isinstance(value, str):
        value = [role.strip() for role in value.split(",") if role.strip()]
    if not isinstance(value, list) or not all(isinstance(role, str) for role in value):
        raise LineError("roles: a list of text, or text with commas between")
    return tuple(value)


def _attributes(record: Mapping[str, Any]) -> Mapping[str, Any]:
    value = record.get("attributes") or {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise LineError("attributes: a JSON object")
    return value
