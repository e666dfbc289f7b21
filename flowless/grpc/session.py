"""SessionService: message -> service -> message."""

from datetime import UTC, datetime, timedelta
from typing import Final, cast

from flowless.domain.fields import Fields
from flowless.grpc import convert
from flowless.grpc.authorization import actor, caller
from flowless.grpc.replies import wrote
from flowless.services.barriers import Barriers
from flowless.services.logins import Device, Logins
from flowless.services.sessions import Sessions
from flowless.services.token_effects import TokenEffects
from trust_core.grpc_edge import Context
from trust_core.identifiers import is_session_handle
from trustlayer.v1 import session_pb2 as pb
from trustlayer.v1 import session_pb2_grpc

_USUAL_WAIT: Final = timedelta(seconds=5)
_LONGEST_WAIT: Final = timedelta(seconds=60)
_FOR_THE_ANSWER_SECONDS: Final = 0.1


def _position(token: str) -> tuple[datetime, str] | None:
    parts = convert.from_page_token(token, parts=2)
    if parts is None:
        return None
    try:
        created = datetime.fromisoformat(parts[0]).astimezone(UTC)
    except (ValueError, OverflowError):
        created = None
    if created is None or not is_session_handle(parts[1]):
        fields = Fields()
        fields.add("page_token", "a token from the answer before, or empty")
        fields.refuse()
        raise AssertionError("refuse raises")
    return created, parts[1]


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """See proto/trustlayer/v1/session.proto."""

    def __init__(self, *, sessions: Sessions, logins: Logins, effects: TokenEffects, barriers: Barriers) -> None:
        self._sessions = sessions
        self._logins = logins
        self._effects = effects
        self._barriers = barriers

    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginResponse:
        """See the proto."""
        new = await self._logins.log_in(
            login=request.login,
            password=request.password,
            device=_device(request),
            by=actor(context, client_ip=request.context.client_ip),
        )
        # A login may have ended the oldest session, and one by link may have taken an account over.
        wrote(context, new.revision)
        return pb.LoginResponse(session_id=new.session_id, session=convert.session(new.active))

    async def LoginWithTrustToken(
        self, request: pb.LoginWithTrustTokenRequest, context: Context
    ) -> pb.LoginWithTrustTokenResponse:
        """See the proto."""
        new = await self._effects.log_in(
            request.token,
            audience=request.audience,
            device=_device(request),
            by=actor(context, client_ip=request.context.client_ip),
        )
        wrote(context, new.revision)
        return pb.LoginWithTrustTokenResponse(session_id=new.session_id, session=convert.session(new.active))

    async def Reauthenticate(self, request: pb.ReauthenticateRequest, context: Context) -> pb.ReauthenticateResponse:
        """See the proto."""
        new = await self._logins.reauthenticate(
            request.session_id,
            request.password,
            context=convert.context(request.context),
            by=actor(context, client_ip=request.context.client_ip),
        )
        return pb.ReauthenticateResponse(
            session_id=new.session_id, session=convert.session(new.active), revision=wrote(context, new.revision)
        )

    async def Logout(self, request: pb.LogoutRequest, context: Context) -> pb.LogoutResponse:
        """See the proto."""
        revision = await self._sessions.log_out(request.session_id, by=actor(context))
        return pb.LogoutResponse(revision=wrote(context, revision))

    async def RotateSession(self, request: pb.RotateSessionRequest, context: Context) -> pb.RotateSessionResponse:
        """See the proto."""
        new = await self._sessions.rotate(request.session_id, by=actor(context))
        return pb.RotateSessionResponse(
            session_id=new.session_id, session=convert.session(new.active), revision=wrote(context, new.revision)
        )

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        """See the proto."""
        page = await self._sessions.list(
            request.user_id, page_size=request.page_size, before=_position(request.page_token)
        )
        token = ""
        if page.next_before is not None:
            token = convert.page_token(page.next_before[0].isoformat(), page.next_before[1])
        return pb.ListSessionsResponse(
            sessions=[convert.session_summary(session) for session in page.sessions], next_page_token=token
        )

    async def RevokeSession(self, request: pb.RevokeSessionRequest, context: Context) -> pb.RevokeSessionResponse:
        """See the proto."""
        wait = _wait_of(request, context)
        revision = wrote(context, await self._sessions.revoke(request.handle, by=actor(context)))
        return pb.RevokeSessionResponse(revision=revision, barrier=await self._barrier(revision, wait))

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest, context: Context
    ) -> pb.RevokeUserSessionsResponse:
        """See the proto."""
        wait = _wait_of(request, context)
        revision = await self._sessions.revoke_all_of_user(
            request.user_id, except_handle=request.except_handle, by=actor(context)
        )
        wrote(context, revision)
        return pb.RevokeUserSessionsResponse(revision=revision, barrier=await self._barrier(revision, wait))

    async def _barrier(self, revision: int, wait: "_Wait | None") -> pb.RevokeBarrier | None:
        if wait is None:
            return None
        outcome = await self._barriers.wait(revision, timeout_seconds=wait.seconds_left())
        return pb.RevokeBarrier(
            reached=outcome.reached, applied=outcome.applied, expired=outcome.expired, waiting=outcome.waiting
        )


def _device(request: pb.LoginRequest | pb.LoginWithTrustTokenRequest) -> Device:
    return Device(context=convert.context(request.context), name=request.device_name, bridge_id=caller().bridge.id)


class _Wait:
    """How long a revoke may wait for sidecars: its own limit, and what the call's deadline leaves for the answer."""

    def __init__(self, *, seconds: float, context: Context) -> None:
        self._seconds = seconds
        self._context = context

    def seconds_left(self) -> float:
        # None without a deadline, whatever the stub says.
        remaining = cast("float | None", self._context.time_remaining())
        if remaining is None:
            return self._seconds
        return max(0.0, min(self._seconds, remaining - _FOR_THE_ANSWER_SECONDS))


def _wait_of(request: pb.RevokeSessionRequest | pb.RevokeUserSessionsRequest, context: Context) -> _Wait | None:
    """Read whom to wait for, before anything is revoked. Errors: INVALID_FIELD."""
    fields = Fields()
    if request.wait not in (pb.REVOKE_WAIT_UNSPECIFIED, pb.REVOKE_WAIT_ALL_SIDECARS):
        fields.add("wait", "a RevokeWait that this version knows, or unspecified")
    timeout = convert.time_delta("wait_timeout", request.wait_timeout, fields)
    if not timedelta(0) <= timeout <= _LONGEST_WAIT:
        fields.add("wait_timeout", f"0 to {_LONGEST_WAIT.total_seconds():.0f} s")
    fields.refuse()
    if request.wait == pb.REVOKE_WAIT_UNSPECIFIED:
        return None
    return _Wait(seconds=(timeout or _USUAL_WAIT).total_seconds(), context=context)
