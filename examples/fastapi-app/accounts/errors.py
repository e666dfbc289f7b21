"""The page for each way in which a request ends without what was asked for."""

import logging
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import grpc
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from accounts import words
from accounts.csrf import RefusedError
from accounts.login import after_login
from accounts.pages import CHALLENGE, HEADERS, says_no, see
from accounts.visitors import NotLoggedInError
from trustlayer import CallFailed, DenialReason, SessionDenied, ValidatorUnavailable

_FORBIDDEN: Final = frozenset({DenialReason.ROLE_MISSING, DenialReason.ROUTE_NOT_COVERED})
_NO_ANSWER: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

log = logging.getLogger("accounts")


async def not_logged_in(request: Request, error: NotLoggedInError) -> Response:
    """Ask for a login, and come back to a page that was asked for."""
    wanted = after_login(request.url.path if request.method == "GET" else "")
    return see(f"/login?next={wanted}")


async def denied(request: Request, error: SessionDenied) -> Response:
    """Say why not. The cookie stays: it may be good elsewhere, or another answer may have replaced it just now."""
    why = words.DENIALS.get(error.reason, words.OTHER_DENIAL)
    if error.reason in _FORBIDDEN:
        return says_no(request, why, status=HTTPStatus.FORBIDDEN)
    return says_no(request, why, status=HTTPStatus.UNAUTHORIZED, headers=CHALLENGE)


async def unavailable(request: Request, error: ValidatorUnavailable) -> Response:
    """Say that nobody can tell; never that somebody is, or is not, logged in."""
    log.warning("cannot know who is logged in: %s", error)
    return _later(request, words.UNAVAILABLE, error.retry_after)


async def failed(request: Request, error: CallFailed) -> Response:
    """Say that it was not done."""
    log.warning("a call failed: %s", error)
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _later(request, words.BUSY, error.retry_after)
    if error.code in _NO_ANSWER:
        return _later(request, words.UNAVAILABLE if request.method == "GET" else words.NOT_CERTAIN, error.retry_after)
    return says_no(request, words.OUR_FAULT, status=HTTPStatus.INTERNAL_SERVER_ERROR)


async def refused(request: Request, error: RefusedError) -> Response:
    """Say what is wrong with the request."""
    return says_no(request, words.Why("This was not done", error.message, again=False), status=error.status)


async def http_error(request: Request, error: HTTPException) -> Response:
    """Say that there is no such address, or method."""
    return says_no(request, words.NOTHING_HERE, status=error.status_code, headers=dict(error.headers or {}))


async def our_fault(request: Request, error: Exception) -> Response:
    """Say nothing of what happened: it is in the log."""
    return says_no(request, words.OUR_FAULT, status=HTTPStatus.INTERNAL_SERVER_ERROR, headers=HEADERS)


def _later(request: Request, why: words.Why, seconds: float | None) -> Response:
    headers = {"retry-after": str(max(1, math.ceil(seconds or 1.0)))}
    return says_no(
        request, why, status=HTTPStatus.SERVICE_UNAVAILABLE, headers=headers, retry=request.method == "GET"
    )


_HANDLERS: Final[dict[type[Exception], Callable[..., Awaitable[Response]]]] = {
    NotLoggedInError: not_logged_in,
    SessionDenied: denied,
    ValidatorUnavailable: unavailable,
    CallFailed: failed,
    RefusedError: refused,
    HTTPException: http_error,
    Exception: our_fault,
}


def add_to(app: FastAPI) -> None:
    """Make the app answer with these pages."""
    for kind, handler in _HANDLERS.items():
        app.exception_handler(kind)(handler)
