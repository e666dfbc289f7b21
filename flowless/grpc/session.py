"""SessionService: message -> service -> message."""

from datetime import UTC, datetime

from flowless.domain.fields import Fields
from flowless.grpc import convert
from flowless.grpc.authorization import caller
from flowless.grpc.replies import wrote
from flowless.services.sessions import Sessions
from trust_core.grpc_edge import Context
from trust_core.identifiers import is_session_handle
from trustlayer.v1 import session_pb2 as pb
from trustlayer.v1 import session_pb2_grpc


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

    def __init__(self, *, sessions: Sessions) -> None:
        self._sessions = sessions

    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginResponse:
        """See the proto."""
        new = await self._sessions.log_in(
            login=request.login,
            password=request.password,
            context=convert.context(request.context),
            device_name=request.device_name,
            bridge_id=caller().bridge.id,
        )
        return pb.LoginResponse(session_id=new.session_id, session=convert.session(new.active))

    async def Logout(self, request: pb.LogoutRequest, context: Context) -> pb.LogoutResponse:
        """See the proto."""
        return pb.LogoutResponse(revision=wrote(context, await self._sessions.log_out(request.session_id)))

    async def RotateSession(self, request: pb.RotateSessionRequest, context: Context) -> pb.RotateSessionResponse:
        """See the proto."""
        new = await self._sessions.rotate(request.session_id)
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
        return pb.RevokeSessionResponse(revision=wrote(context, await self._sessions.revoke(request.handle)))

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest, context: Context
    ) -> pb.RevokeUserSessionsResponse:
        """See the proto."""
        revision = await self._sessions.revoke_all_of_user(request.user_id, except_handle=request.except_handle)
        return pb.RevokeUserSessionsResponse(revision=wrote(context, revision))
