"""PubflowService: the wire of Pubflow's HTTP bridge over the same use cases. Envoy does the HTTP."""

from datetime import timedelta
from typing import Final

from flowless.domain.contexts import check_context
from flowless.domain.fields import Fields
from flowless.domain.sent_context import check_sent
from flowless.domain.sessions import ActiveSession, SessionActivity
from flowless.domain.trust_tokens import EMAIL_VERIFY, PASSWORD_RESET
from flowless.domain.users import Profile, User
from flowless.grpc import convert
from flowless.grpc.authorization import actor, caller
from flowless.grpc.pubflow_request import asked_mode, client_context, one_of, session_id_of, session_refused
from flowless.grpc.replies import wrote
from flowless.ports.stores import RevocationLog
from flowless.services.credentials import UserPasswords
from flowless.services.logins import Device, Logins
from flowless.services.sessions import Sessions
from flowless.services.token_effects import Shown, TokenEffects
from flowless.services.trust_tokens import IssueRequest, TrustTokens
from flowless.services.users import Users
from trust_core import modes
from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import Context
from trust_core.identifiers import session_digest
from trust_core.modes import DenialReason, IpPrefixes, RequestContext, ValidationMode
from trustlayer.pubflow.v1 import pubflow_pb2 as pb
from trustlayer.pubflow.v1 import pubflow_pb2_grpc

AUDIENCE: Final = "pubflow"
"""Of the trust tokens that this wire issues and redeems."""
_RESET_LIFETIME: Final = timedelta(hours=1)
_VERIFY_LIFETIME: Final = timedelta(days=1)
_MAIL_UNDER_WAY: Final = "if somebody has this address, a mail is on its way"


class PubflowServicer(pubflow_pb2_grpc.PubflowServiceServicer):
    """See proto/trustlayer/pubflow/v1/pubflow.proto."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        logins: Logins,
        users: Users,
        passwords: UserPasswords,
        effects: TokenEffects,
        tokens: TrustTokens,
        log: RevocationLog,
        least_mode: ValidationMode | None,
        ip_prefixes: IpPrefixes,
    ) -> None:
        """`least_mode`: what every validation has to satisfy; `None`: what backends ask for."""
        self._sessions = sessions
        self._logins = logins
        self._users = users
        self._passwords = passwords
        self._effects = effects
        self._tokens = tokens
        self._log = log
        self._least_mode = least_mode
        self._ip_prefixes = ip_prefixes

    async def ValidateBridgeSession(
        self, request: pb.ValidateBridgeSessionRequest, context: Context
    ) -> pb.ValidateBridgeSessionResponse:
        """See the proto."""
        body = request.body
        session_id = session_id_of(context, request.session_id, body.session_id)
        mode = asked_mode(body.validation_mode, self._least_mode)
        sent = RequestContext(
            client_ip=one_of("ip_address", body.ip_address, body.ip),
            device_fingerprint=one_of("device_id", body.device_id, body.device_fingerprint),
            user_agent=body.user_agent,
        )
        active = await self._active(session_id, sent)
        reason = check_sent(mode, active.session.binding, sent, self._ip_prefixes)
        if reason is not None:
            raise session_refused(reason)
        await self._used(active)
        return pb.ValidateBridgeSessionResponse(
            success=True,
            user=_user(active),
            session=_session(active),
            expires_at=convert.timestamp(active.session.expires_at),
        )

    async def CheckHealth(self, request: pb.CheckHealthRequest, context: Context) -> pb.CheckHealthResponse:
        """See the proto."""
        await self._log.head()
        return pb.CheckHealthResponse(success=True, status="ok")

    async def LogIn(self, request: pb.LogInRequest, context: Context) -> pb.LogInResponse:
        """See the proto."""
        where = client_context(context, device_id=request.device_id)
        new = await self._logins.log_in(
            login=one_of("email", request.email, request.user_name),
            password=request.password,
            device=Device(context=where, name="", bridge_id=caller().bridge.id),
            by=actor(context, client_ip=where.client_ip),
        )
        return pb.LogInResponse(
            success=True,
            user=_user(new.active),
            session_id=new.session_id,
            expires_at=convert.timestamp(new.active.session.expires_at),
        )

    async def LogInWithToken(self, request: pb.LogInWithTokenRequest, context: Context) -> pb.LogInWithTokenResponse:
        """See the proto."""
        where = client_context(context, device_id=request.device_id)
        new = await self._effects.log_in(
            request.token,
            audience=AUDIENCE,
            device=Device(context=where, name="", bridge_id=caller().bridge.id),
            by=actor(context, client_ip=where.client_ip),
        )
        return pb.LogInWithTokenResponse(
            success=True,
            user=_user(new.active),
            session_id=new.session_id,
            expires_at=convert.timestamp(new.active.session.expires_at),
        )

    async def LogOut(self, request: pb.LogOutRequest, context: Context) -> pb.LogOutResponse:
        """See the proto."""
        session_id = session_id_of(context, request.session_id, request.body.session_id)
        if session_digest(session_id) is None:
            raise session_refused(DenialReason.MALFORMED)
        by = actor(context, client_ip=client_context(context).client_ip)
        wrote(context, await self._sessions.log_out(session_id, by=by))
        return pb.LogOutResponse(success=True, message="logged out")

    async def GetMe(self, request: pb.GetMeRequest, context: Context) -> pb.GetMeResponse:
        """See the proto."""
        active = await self._own(context, request.session_id)
        return pb.GetMeResponse(
            success=True,
            user=_user(active),
            session=_session(active),
            expires_at=convert.timestamp(active.session.expires_at),
        )

    async def ValidateSession(
        self, request: pb.ValidateSessionRequest, context: Context
    ) -> pb.ValidateSessionResponse:
        """See the proto."""
        active = await self._own(context, request.session_id)
        return pb.ValidateSessionResponse(
            success=True,
            valid=True,
            user=_user(active),
            session=_session(active),
            expires_at=convert.timestamp(active.session.expires_at),
        )

    async def RegisterUser(self, request: pb.RegisterUserRequest, context: Context) -> pb.RegisterUserResponse:
        """See the proto."""
        if not request.password:
            fields = Fields()
            fields.add("password", "required")
            fields.refuse()
        profile = Profile(
            user_name=request.user_name,
            name=request.name,
            last_name=request.last_name,
            phone=request.phone,
            locale=request.lang,
        )
        by = actor(context, client_ip=request.ip_address)
        user = await self._users.register(email=request.email, password=request.password, profile=profile, by=by)
        message = "registered"
        if self._tokens.can_mail(EMAIL_VERIFY):
            where = RequestContext(client_ip=request.ip_address)
            try:
                await self._send(EMAIL_VERIFY, user.email, _VERIFY_LIFETIME, context, where)
                message = "registered; a mail is on its way to prove the address"
            except TrustError:
                # The user is there; they can ask for the mail again.
                message = "registered; the mail that proves the address could not be sent"
        return pb.RegisterUserResponse(success=True, user=_profile(user), message=message)

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, context: Context
    ) -> pb.RequestPasswordResetResponse:
        """See the proto."""
        await self._send(PASSWORD_RESET, request.email, _RESET_LIFETIME, context, client_context(context))
        return pb.RequestPasswordResetResponse(success=True, message=_MAIL_UNDER_WAY)

    async def ValidatePasswordReset(
        self, request: pb.ValidatePasswordResetRequest, context: Context
    ) -> pb.ValidatePasswordResetResponse:
        """See the proto."""
        await self._tokens.check(request.token, purpose=PASSWORD_RESET, audience=AUDIENCE)
        return pb.ValidatePasswordResetResponse(success=True, valid=True)

    async def CompletePasswordReset(
        self, request: pb.CompletePasswordResetRequest, context: Context
    ) -> pb.CompletePasswordResetResponse:
        """See the proto."""
        where = client_context(context)
        _, revision = await self._effects.reset_password(
            Shown(text=request.token, audience=AUDIENCE, context=where),
            one_of("password", request.password, request.new_password),
            by=actor(context, client_ip=where.client_ip),
        )
        wrote(context, revision)
        return pb.CompletePasswordResetResponse(success=True, message="the password is set; log in with it")

    async def ChangePassword(self, request: pb.ChangePasswordRequest, context: Context) -> pb.ChangePasswordResponse:
        """See the proto."""
        body = request.body
        session_id = session_id_of(context, request.session_id, body.session_id)
        active = await self._own(context, session_id)
        where = client_context(context)
        changed = await self._passwords.change(
            active.user.id,
            current=body.current_password,
            new=body.new_password,
            session_id=session_id,
            context=where,
            by=actor(context, client_ip=where.client_ip),
        )
        wrote(context, changed.revision)
        return pb.ChangePasswordResponse(
            success=True, message="the password is changed", session_id=changed.session_id
        )

    async def ResendVerification(
        self, request: pb.ResendVerificationRequest, context: Context
    ) -> pb.ResendVerificationResponse:
        """See the proto."""
        await self._send(EMAIL_VERIFY, request.email, _VERIFY_LIFETIME, context, client_context(context))
        return pb.ResendVerificationResponse(success=True, message=_MAIL_UNDER_WAY)

    async def _own(self, context: Context, named: str) -> ActiveSession:
        """Read the session of a person's own request, which has to come from where they logged in.

        Errors: INVALID_FIELD, SESSION_REFUSED.
        """
        where = client_context(context)
        active = await self._active(session_id_of(context, named), where)
        mode = self._least_mode or ValidationMode.STANDARD
        reason = modes.check(mode, active.session.binding, where, self._ip_prefixes)
        if reason is not None:
            raise session_refused(reason)
        await self._used(active)
        return active

    async def _active(self, session_id: str, sent: RequestContext) -> ActiveSession:
        """Read a session, with its binding. Errors: INVALID_FIELD, SESSION_REFUSED."""
        answer = await self._sessions.validate(session_id, mode=None, context=sent, min_revision=0)
        if not isinstance(answer.result, ActiveSession):
            raise session_refused(answer.result)
        return answer.result

    async def _used(self, active: ActiveSession) -> None:
        """Let idle expiry slide, as sidecars do. That it cannot be written now denies nobody."""
        activity = SessionActivity(digest=active.session.digest, idle_for=timedelta(0))
        try:
            await self._sessions.report_activity([activity], bridge_id=caller().bridge.id)
        except TrustError as error:
            if error.reason not in (Reason.STORAGE_UNAVAILABLE, Reason.STORAGE_FULL):
                raise

    async def _send(
        self, purpose: str, email: str, lifetime: timedelta, context: Context, where: RequestContext
    ) -> None:
        """Send a mail with a trust token, never hand the token out. Errors: see TrustTokens.issue."""
        fields = Fields()
        if "@" not in email:
            fields.add("email", "an e-mail address")
        check_context(where, fields)
        fields.refuse()
        wish = IssueRequest(
            purpose=purpose,
            subject=email,
            audience=AUDIENCE,
            lifetime=lifetime,
            by_mail=True,
            bridge_id=caller().bridge.id,
            data={},
            locale="",
            context=where,
        )
        await self._tokens.issue(wish, by=actor(context, client_ip=where.client_ip))


def _user(active: ActiveSession) -> pb.User:
    return _profile(active.user)


def _profile(user: User) -> pb.User:
    profile = user.profile
    return pb.User(
        id=user.id,
        email=user.email,
        name=profile.name,
        last_name=profile.last_name,
        user_name=profile.user_name,
        user_type=profile.user_type,
        is_verified=user.email_verified,
        picture=profile.picture_url,
        phone=profile.phone,
        lang=profile.locale,
        created_at=convert.timestamp(user.created_at),
        updated_at=convert.timestamp(user.updated_at),
        roles=profile.roles,
    )


def _session(active: ActiveSession) -> pb.Session:
    session = active.session
    return pb.Session(
        id=session.handle,
        user_id=session.user_id,
        expires_at=convert.timestamp(session.expires_at),
        created_at=convert.timestamp(session.created_at),
        last_used_at=convert.timestamp(session.last_seen_at),
        ip_address=modes.unpack_ip(session.binding.client_ip),
    )
