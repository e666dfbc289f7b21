"""My devices: where I am logged in, and logging those out."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi import APIRouter, Request
from google.protobuf.duration_pb2 import Duration
from starlette.responses import Response

from accounts import cookies, words
from accounts.login import HOME, Form
from accounts.pages import page, see
from accounts.visitors import AnyVisitor, LoggedIn, Sidecar
from trustlayer import CallFailed
from trustlayer.aio import Client
from trustlayer.v1.session_pb2 import (
    REVOKE_WAIT_ALL_SIDECARS,
    ListSessionsRequest,
    RevokeBarrier,
    RevokeSessionRequest,
    RevokeUserSessionsRequest,
    RotateSessionRequest,
    SessionSummary,
)

router = APIRouter()

_PAGE_SIZE: Final = 500
_MAX_PAGES: Final = 20
_WAIT: Final = Duration(seconds=3)
"""How long a click waits until no sidecar says yes any more."""
_SEEN_EVERY: Final = timedelta(seconds=75)
"""Use is reported every 15 seconds and stored once a minute, unless the operator set it otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A line of the list. `here`: it is the browser that asks."""

    handle: str
    here: bool
    name: str
    client_ip: str
    seen: datetime
    seen_words: str
    since: datetime


@router.get("/")
async def home() -> Response:
    """There is one page to be at."""
    return see(HOME)


@router.get(HOME)
async def devices(request: Request, visitor: AnyVisitor, session: LoggedIn, client: Sidecar) -> Response:
    """List where this user is logged in."""
    if session.rotation_due and visitor.session_id:
        return await _rotated(client, visitor.session_id)
    now = datetime.now(UTC)
    listed = [_shown(summary, session.handle, now) for summary in await _sessions(client, session.user.id)]
    listed.sort(key=lambda device: device.here, reverse=True)
    return page(
        request,
        "devices.html",
        user=session.user,
        devices=listed,
        done=words.DONE.get(request.query_params.get("done", ""), ""),
    )


@router.post("/devices/log-out")
async def log_out_device(session: LoggedIn, client: Sidecar, form: Form) -> Response:
    """Log one device out: one of this user's own. A handle is no secret, so knowing it proves nothing."""
    handle = form.get("handle", "")
    if handle not in {summary.handle for summary in await _sessions(client, session.user.id)}:
        return see(f"{HOME}?done=gone")
    answer = await client.sessions.RevokeSession(
        RevokeSessionRequest(handle=handle, wait=REVOKE_WAIT_ALL_SIDECARS, wait_timeout=_WAIT)
    )
    return see(f"{HOME}?done=device{_certainty(answer.barrier)}")


@router.post("/devices/log-out-others")
async def log_out_others(session: LoggedIn, client: Sidecar) -> Response:
    """Log every device out but this one."""
    answer = await client.sessions.RevokeUserSessions(
        RevokeUserSessionsRequest(
            user_id=session.user.id,
            except_handle=session.handle,
            wait=REVOKE_WAIT_ALL_SIDECARS,
            wait_timeout=_WAIT,
        )
    )
    return see(f"{HOME}?done=others{_certainty(answer.barrier)}")


def _certainty(barrier: RevokeBarrier) -> str:
    """Whether it is certain already that no sidecar says yes, or only soon."""
    return "" if barrier.reached else "-soon"


async def _rotated(client: Client, session_id: str) -> Response:
    """Give the browser another session id, since the roles of its user changed, and let it come again with that."""
    response = see(HOME)
    try:
        answer = await client.sessions.RotateSession(RotateSessionRequest(session_id=session_id))
    except CallFailed as error:
        if error.reason != "SESSION_NOT_ACTIVE":
            raise
        # Another request of this browser was first: its answer has the new id.
        return response
    cookies.set_session(response, answer.session_id)
    return response


async def _sessions(client: Client, user_id: str) -> list[SessionSummary]:
    """All of a user's live sessions, newest first; Flowless allows no more than 10,000."""
    found: list[SessionSummary] = []
    request = ListSessionsRequest(user_id=user_id, page_size=_PAGE_SIZE)
    for _ in range(_MAX_PAGES):
        answer = await client.sessions.ListSessions(request)
        found += answer.sessions
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    return found


def _shown(summary: SessionSummary, here: str, now: datetime) -> Device:
    seen = summary.last_seen_time.ToDatetime(tzinfo=UTC)
    return Device(
        handle=summary.handle,
        here=summary.handle == here,
        name=summary.device_name,
        client_ip=summary.client_ip,
        seen=seen,
        seen_words="just now" if now - seen < _SEEN_EVERY else words.ago(seen, now),
        since=summary.create_time.ToDatetime(tzinfo=UTC),
    )
