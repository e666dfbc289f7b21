"""Logs of both programs: JSON for machines, one readable line for a terminal, never a secret.

Every event passes `_redact`, which replaces session ids and bridge secrets wherever they stand; code that logs
should still never hand them over. Exceptions are logged as their type and the place they were raised: their
text may hold anything (SQL parameters, request fields) and is left out.
"""

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog

from trust_core import request_ids
from trust_core.identifiers import redact

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS: Final = ("auto", "json", "console")


def _redact_value(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redact_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_value(item) for item in value]
    return value


def _redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        event[key] = _redact_value(value)
    return event


def describe_exception(error: BaseException) -> dict[str, object]:
    """Type and place of an exception and of its causes, without its text."""
    chain: list[str] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 5:
        frames = traceback.extract_tb(current.__traceback__)
        where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
        chain.append(f"{type(current).__module__}.{type(current).__qualname__} at {where or 'unknown'}")
        current = current.__cause__ or current.__context__
    return {"exception": chain}


class _StandardLibraryHandler(logging.Handler):
    """Carries what libraries log into the same stream, as type and message template only."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the template's first line without its arguments: those may hold anything.

        asyncio puts the text of an exception nobody waited for into the lines after the first.
        """
        fields: dict[str, object] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= describe_exception(record.exc_info[1])
        structlog.get_logger().log(record.levelno, (str(record.msg).splitlines() or [""])[0], **fields)


def _lay_out_exception(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Give the console renderer the text that it expects under this key; JSON keeps the list."""
    if isinstance(event.get("exception"), list):
        event["exception"] = "\n".join(f"  {line}" for line in event["exception"])
    return event


def _name_worker(worker: int) -> Any:
    """Make the processor that says which process of several an event is from."""

    def add(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {"worker": worker, **event}

    return add


def _name_request(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Say by which request of an app an event was caused, if by any."""
    request_id = request_ids.current()
    if request_id:
        event.setdefault("request_id", request_id)
    return event


def configure(
    *, level: str = "info", style: str = "auto", stream: TextIO | None = None, worker: int | None = None
) -> None:
    """Set up logging for the process, to standard error unless told otherwise.

    `worker`, if given, stands in every event.
    `style` is `json`, `console`, or `auto`: console on a terminal, JSON elsewhere.
    """
    target = stream if stream is not None else sys.stderr
    console = style == "console" or (style == "auto" and target.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *((_name_worker(worker),) if worker is not None else ()),
            _name_request,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact,
            *((_lay_out_exception,) if console else ()),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_StandardLibraryHandler()]
    root.setLevel(max(LEVELS[level], logging.WARNING))


def get_logger(program: str) -> Any:
    """Return a logger that names its program in every event."""
    return structlog.get_logger(program=program)
