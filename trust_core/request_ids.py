"""The request id: one name for everything that a request of an app caused, from its socket to a statement of SQL.

An app's own id is taken if it is short and harmless; otherwise one is made, but only once somebody asks for it: most
calls are answered from memory, and nothing that would need a name happens. Whatever one call starts (a shared
question, a report) inherits its id, because a task inherits the context of the one that creates it. So a question
that several requests share is known by the id of the request that began it.
"""

import contextvars
import re
import secrets
from collections.abc import Iterable
from typing import Any, Final

from trust_core.identifiers import SECRET_PATTERN

METADATA_KEY: Final = "x-request-id"
"""Also the header of HTTP."""

_HARMLESS = re.compile(r"[0-9A-Za-z._-]{1,64}", re.ASCII)


def harmless(text: object) -> str:
    """Return the text if it may be logged, stored and sent on as it is; else nothing.

    It ends up in logs, in the audit log, in comments of SQL and in answers. A secret that somebody puts there by
    mistake must not.
    """
    if not isinstance(text, str) or _HARMLESS.fullmatch(text) is None or SECRET_PATTERN.search(text):
        return ""
    return text


class RequestId:
    """The id of one call, taken or made when it is first asked for. Shared by all tasks that the call starts."""

    __slots__ = ("_context", "_value")

    def __init__(self, context: Any = None, *, value: str = "") -> None:
        """`context`: the call's, whose metadata may hold an id; read only if somebody asks."""
        self._context = context
        self._value = value

    @property
    def used(self) -> str:
        """The id if anybody has asked for it; else nothing."""
        return self._value

    def prefer(self, text: str) -> None:
        """Take another place's id (of the HTTP request that a proxy asks about), unless there is one already."""
        if not self._value:
            self._value = self._sent() or harmless(text)

    def get(self) -> str:
        """Return the id, the same throughout the call."""
        if not self._value:
            self._value = self._sent() or secrets.token_hex(8)
            self._context = None
        return self._value

    def _sent(self) -> str:
        metadata: Iterable[tuple[str, Any]] = (
            () if self._context is None else self._context.invocation_metadata() or ()
        )
        return next((harmless(value) for key, value in metadata if key == METADATA_KEY), "")


_current: contextvars.ContextVar[RequestId | None] = contextvars.ContextVar("request_id", default=None)


def begin(request_id: RequestId) -> RequestId:
    """Make this the id of the running task, and of those that it starts from now on."""
    _current.set(request_id)
    return request_id


def running() -> RequestId | None:
    """Return the id of the call that the running task belongs to; `None` outside of calls."""
    return _current.get()


def current() -> str:
    """Return the id of the running call, taken or made now; nothing outside of calls."""
    request_id = _current.get()
    return "" if request_id is None else request_id.get()
