"""IdentityService: message -> service -> message."""

import itertools
from collections.abc import AsyncIterator

from flowless.domain.fields import Fields
from flowless.domain.users import Profile
from flowless.grpc import convert
from flowless.grpc.authorization import actor, caller
from flowless.grpc.replies import wrote
from flowless.services.credentials import UserPasswords
from flowless.services.token_effects import EmailChange, Shown, TokenEffects
from flowless.services.user_import import ImportedUser, UserImport
from flowless.services.users import Users
from trust_core.grpc_edge import Context
from trustlayer.v1 import identity_pb2 as pb
from trustlayer.v1 import identity_pb2_grpc


class IdentityServicer(identity_pb2_grpc.IdentityServiceServicer):
    """See proto/trustlayer/v1/identity.proto."""

    def __init__(
        self, *, users: Users, passwords: UserPasswords, effects: TokenEffects, user_import: UserImport
    ) -> None:
        self._users = users
        self._user_import = user_import
        self._effects = effects
        self._passwords = passwords

    async def RegisterUser(self, request: pb.RegisterUserRequest, context: Context) -> pb.RegisterUserResponse:
        """See the proto."""
        user = await self._users.register(
            email=request.email, password=request.password, profile=convert.profile(request), by=actor(context)
        )
        return pb.RegisterUserResponse(user=convert.user(user))

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        """See the proto."""
        return pb.GetUserResponse(user=convert.user(await self._users.get(request.user_id)))

    async def LookUpUser(self, request: pb.LookUpUserRequest, context: Context) -> pb.LookUpUserResponse:
        """See the proto."""
        return pb.LookUpUserResponse(user=convert.user(await self._users.look_up(request.login)))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        """See the proto."""
        position = convert.from_page_token(request.page_token, parts=1)
        page = await self._users.list(page_size=request.page_size, after=position[0] if position else "")
        return pb.ListUsersResponse(
            users=[convert.user(user) for user in page.users],
            next_page_token=convert.page_token(page.next_after) if page.next_after else "",
        )

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Context) -> pb.UpdateUserResponse:
        """See the proto."""
        user, revision = await self._users.update(
            request.user_id, convert.profile(request.user), frozenset(request.update_mask.paths), by=actor(context)
        )
        return pb.UpdateUserResponse(user=convert.user(user), revision=wrote(context, revision))

    async def DisableUser(self, request: pb.DisableUserRequest, context: Context) -> pb.DisableUserResponse:
        """See the proto."""
        return pb.DisableUserResponse(
            revision=wrote(context, await self._users.disable(request.user_id, by=actor(context)))
        )

    async def EnableUser(self, request: pb.EnableUserRequest, context: Context) -> pb.EnableUserResponse:
        """See the proto."""
        return pb.EnableUserResponse(
            revision=wrote(context, await self._users.enable(request.user_id, by=actor(context)))
        )

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Context) -> pb.DeleteUserResponse:
        """See the proto."""
        return pb.DeleteUserResponse(
            revision=wrote(context, await self._users.delete(request.user_id, by=actor(context)))
        )

    async def ChangePassword(self, request: pb.ChangePasswordRequest, context: Context) -> pb.ChangePasswordResponse:
        """See the proto."""
        changed = await self._passwords.change(
            request.user_id,
            current=request.current_password,
            new=request.new_password,
            session_id=request.session_id,
            context=convert.context(request.context),
            by=actor(context, client_ip=request.context.client_ip),
        )
        return pb.ChangePasswordResponse(revision=wrote(context, changed.revision), session_id=changed.session_id)

    async def ResetPassword(self, request: pb.ResetPasswordRequest, context: Context) -> pb.ResetPasswordResponse:
        """See the proto."""
        user_id, revision = await self._effects.reset_password(
            _shown(request), request.new_password, by=actor(context, client_ip=request.context.client_ip)
        )
        return pb.ResetPasswordResponse(user_id=user_id, revision=wrote(context, revision))

    async def AcceptInvitation(
        self, request: pb.AcceptInvitationRequest, context: Context
    ) -> pb.AcceptInvitationResponse:
        """See the proto."""
        user = await self._effects.accept_invitation(
            _shown(request),
            password=request.password,
            profile=Profile(
                user_name=request.user_name,
                name=request.name,
                last_name=request.last_name,
                phone=request.phone,
                picture_url=request.picture_url,
                locale=request.locale,
            ),
            by=actor(context, client_ip=request.context.client_ip),
        )
        return pb.AcceptInvitationResponse(user=convert.user(user))

    async def StartEmailChange(
        self, request: pb.StartEmailChangeRequest, context: Context
    ) -> pb.StartEmailChangeResponse:
        """See the proto."""
        fields = Fields()
        change = EmailChange(
            user_id=request.user_id,
            new_email=request.new_email,
            password=request.current_password,
            audience=request.audience,
            lifetime=convert.time_delta("lifetime", request.lifetime, fields),
            by_mail=convert.by_mail(request.delivery, fields),
            bridge_id=caller().bridge.id,
            context=convert.context(request.context),
        )
        fields.refuse()
        issued = await self._effects.start_email_change(
            change, by=actor(context, client_ip=request.context.client_ip)
        )
        return pb.StartEmailChangeResponse(token=issued.text, expire_time=convert.timestamp(issued.expires_at))

    async def ConfirmEmailChange(
        self, request: pb.ConfirmEmailChangeRequest, context: Context
    ) -> pb.ConfirmEmailChangeResponse:
        """See the proto."""
        user, revision = await self._effects.confirm_email_change(
            _shown(request), by=actor(context, client_ip=request.context.client_ip)
        )
        return pb.ConfirmEmailChangeResponse(user=convert.user(user), revision=wrote(context, revision))

    async def ImportUsers(
        self, request: AsyncIterator[pb.ImportUsersRequest], context: Context
    ) -> AsyncIterator[pb.ImportUsersResponse]:
        """See the proto."""
        last = 0
        async for message in request:
            numbers = [user.number for user in message.users]
            if any(after <= before for before, after in itertools.pairwise([last, *numbers])):
                fields = Fields()
                fields.add("users.number", "rises from record to record, beginning with 1 or more")
                fields.refuse()
            last = numbers[-1] if numbers else last
            result = await self._user_import.add([_imported(user) for user in message.users], by=actor(context))
            yield pb.ImportUsersResponse(
                added=result.added,
                present=result.present,
                rejections=[pb.ImportRejection(number=each.number, reason=each.reason) for each in result.rejections],
            )


def _shown(
    request: pb.ResetPasswordRequest | pb.AcceptInvitationRequest | pb.ConfirmEmailChangeRequest,
) -> Shown:
    return Shown(text=request.token, audience=request.audience, context=convert.context(request.context))


def _imported(user: pb.ImportedUser) -> ImportedUser:
    return ImportedUser(
        number=user.number,
        email=user.email,
        email_verified=user.email_verified,
        password_hash=user.password_hash,
        profile=convert.profile(user),
        disabled=user.disabled,
    )
