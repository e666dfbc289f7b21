"""What trust tokens do beyond being spent: reset a password, log in, accept an invitation, change an address.

Each is one transaction with the spending, in the store. What can be refused before (the signature, the policy of
passwords, a name that is taken) is refused before, so that a mistake of the person does not cost them the token.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from flowless.domain.attempts import AttemptKind, login_account
from flowless.domain.audit import Action, Actor
from flowless.domain.contexts import check_required_context
from flowless.domain.fields import Fields
from flowless.domain.mail import OutgoingMail
from flowless.domain.trust_tokens import (
    BUILT_IN,
    EMAIL_CHANGE,
    EMAIL_CHANGE_NOTICE,
    EMAIL_CHANGED,
    INVITATION,
    MAGIC_LINK,
    PASSWORD_RESET,
)
from flowless.domain.users import EMAIL_BYTES, Profile, User, UserStatus, checked_profile
from flowless.ports.addresses import EmailAddresses
from flowless.ports.passwords import PasswordHasher
from flowless.ports.stores import Credentials, NewUser, UserStore
from flowless.ports.trust_tokens import TrustTokenStore
from flowless.services.attempts import AttemptLimiter
from flowless.services.credentials import UserPasswords, login_refused
from flowless.services.logins import Device, SessionFactory, check_device
from flowless.services.passwords import PasswordPolicy, words_of
from flowless.services.sessions import NewSession
from flowless.services.trust_tokens import (
    Issued,
    TrustTokens,
    check_token,
    invited_profile,
    refused_if_none,
    token_refused,
)
from flowless.services.users import check_user_id
from trust_core.clock import Clock
from trust_core.identifiers import RandomBytes, new_user_id
from trust_core.modes import RequestContext

MAGIC_LINK_METHOD: Final = "magic_link"
_INVITED: Final = frozenset({"roles", "user_type"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A token as somebody shows it, to whom it was issued, and where they are."""

    text: str
    audience: str
    context: RequestContext


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailChange:
    """A wish for another address."""

    user_id: str
    new_email: str
    password: str
    audience: str
    lifetime: timedelta
    by_mail: bool
    bridge_id: str
    context: RequestContext


class TokenEffects:
    """See the module."""

    def __init__(
        self,
        *,
        tokens: TrustTokens,
        store: TrustTokenStore,
        users: UserStore,
        passwords: UserPasswords,
        hasher: PasswordHasher,
        policy: PasswordPolicy,
        factory: SessionFactory,
        addresses: EmailAddresses,
        attempts: AttemptLimiter,
        clock: Clock,
        random: RandomBytes,
    ) -> None:
        self._tokens = tokens
        self._store = store
        self._users = users
        self._passwords = passwords
        self._hasher = hasher
        self._policy = policy
        self._factory = factory
        self._addresses = addresses
        self._attempts = attempts
        self._clock = clock
        self._random = random

    async def reset_password(self, shown: Shown, new_password: str, *, by: Actor) -> tuple[str, int]:
        """Set the password and revoke all of the user's sessions; return the user's id and the revision.

        Errors: INVALID_FIELD, TRUST_TOKEN_REFUSED, TOO_MANY_ATTEMPTS, HASHING_OVERLOADED.
        """
        fields = Fields()
        _check_shown(shown, fields)
        fields.refuse()
        async with self._tokens.redeeming(PASSWORD_RESET, action=Action.PASSWORD_RESET, context=shown.context, by=by):
            redemption, token = await self._tokens.good(shown.text, purpose=PASSWORD_RESET, audience=shown.audience)
            user = await self._users.get(token.user_id or "")
            own_words = [] if user is None else words_of(user.email, user.profile)
            form = self._policy.check("new_password", new_password, own_words=own_words, fields=fields)
            fields.refuse()
            await self._policy.refuse_breached("new_password", form)
            new_hash = await self._hasher.hash(form)
            now = self._clock.now()
            event = by.event(Action.PASSWORD_RESET, now=now, subject=redemption.jti)
            redeemed = refused_if_none(
                await self._store.reset_password(redemption, new_hash=new_hash, now=now, event=event)
            )
        # However many have guessed: whoever has the mailbox may log in from here.
        await self._attempts.vouch(account=login_account(redeemed.token.canonical_email), context=shown.context)
        return redeemed.token.user_id or "", redeemed.revision

    async def log_in(self, text: str, *, audience: str, device: Device, by: Actor) -> NewSession:
        """Begin a session with a magic link. Errors: INVALID_FIELD, TRUST_TOKEN_REFUSED, TOO_MANY_ATTEMPTS."""
        fields = Fields()
        check_token(text, audience, fields)
        check_device(device, fields)
        fields.refuse()
        async with self._tokens.redeeming(MAGIC_LINK, action=Action.SESSION_LOGIN, context=device.context, by=by):
            redemption, token = await self._tokens.good(text, purpose=MAGIC_LINK, audience=audience)
            found = await self._users.credentials(token.user_id or "")
            if found is None:
                raise token_refused()
            session_id, session = self._factory.begin(
                found.user.id, found.epoch, method=MAGIC_LINK_METHOD, device=device
            )
            event = by.event(
                Action.SESSION_LOGIN,
                now=session.created_at,
                subject=session.handle,
                user_id=found.user.id,
                method=MAGIC_LINK_METHOD,
            )
            added = await self._store.log_in(redemption, session, room=self._factory.room(), event=event)
            if added is None:
                raise token_refused()
        await self._attempts.vouch(account=login_account(token.canonical_email), context=device.context)
        return self._factory.opened(session_id, *added)

    async def accept_invitation(self, shown: Shown, *, password: str, profile: Profile, by: Actor) -> User:
        """Create the invited user.

        Errors: INVALID_FIELD, TRUST_TOKEN_REFUSED, TOO_MANY_ATTEMPTS, EMAIL_TAKEN, USER_NAME_TAKEN,
        HASHING_OVERLOADED.
        """
        fields = Fields()
        _check_shown(shown, fields)
        profile = checked_profile(profile, fields)
        fields.refuse()
        async with self._tokens.redeeming(INVITATION, action=Action.INVITATION_ACCEPT, context=shown.context, by=by):
            redemption, token = await self._tokens.good(shown.text, purpose=INVITATION, audience=shown.audience)
            invited = invited_profile(token.data, fields)
            form = ""
            if password:
                own_words = words_of(token.email, profile)
                form = self._policy.check("password", password, own_words=own_words, fields=fields)
            fields.refuse()
            if form:
                await self._policy.refuse_breached("password", form)
            now = self._clock.now()
            user = User(
                id=new_user_id(self._random),
                email=token.email,
                email_verified=True,
                status=UserStatus.ACTIVE,
                profile=replace(profile, roles=invited.roles, user_type=invited.user_type),
                created_at=now,
                updated_at=now,
            )
            new = NewUser(
                user=user,
                canonical_email=token.canonical_email,
                password_hash=await self._hasher.hash(form) if form else "",
            )
            event = by.event(
                Action.INVITATION_ACCEPT, now=now, subject=user.id, user_id=user.id, roles=list(invited.roles)
            )
            refused_if_none(await self._store.add_user(redemption, new, event=event))
        return user

    async def start_email_change(self, change: EmailChange, *, by: Actor) -> Issued:
        """Check the password and issue a token for the new address; nothing changes before it is shown.

        An address that another user has costs and answers the same; its token cannot be redeemed.
        Errors: INVALID_FIELD, LOGIN_REFUSED, HASHING_OVERLOADED, TOO_MANY_ATTEMPTS, SIGNING_NOT_CONFIGURED,
        MAIL_NOT_CONFIGURED.
        """
        fields = Fields()
        check_user_id(change.user_id, fields)
        canonical = self._addresses.canonical(change.new_email)
        if canonical is None:
            fields.add("new_email", f"an e-mail address of at most {EMAIL_BYTES} bytes")
        self._tokens.check_terms(BUILT_IN[EMAIL_CHANGE], change.audience, change.lifetime, fields)
        check_required_context(change.context, fields)
        fields.refuse()
        self._tokens.require_mail(EMAIL_CHANGE, by_mail=change.by_mail)
        found = await self._proven(change, by=by)
        other = await self._users.credentials_by_email(canonical or "")
        token = await self._tokens.unsigned(
            purpose=EMAIL_CHANGE,
            audience=change.audience,
            user_id=change.user_id,
            email=change.new_email,
            lifetime=change.lifetime,
            bridge_id=change.bridge_id,
            data={},
            is_void=other is not None and other.user.id != change.user_id,
            token_epoch=found.token_epoch,
        )
        locale = found.user.profile.locale
        notice = OutgoingMail(
            id=self._random(16).hex(), template=EMAIL_CHANGE_NOTICE, recipient=found.user.email, locale=locale
        )
        return await self._tokens.issued(
            token,
            locale=locale,
            by_mail=change.by_mail,
            notices=(notice,),
            action=Action.EMAIL_CHANGE_START,
            by=by,
        )

    async def _proven(self, change: EmailChange, *, by: Actor) -> Credentials:
        user_id = change.user_id
        async with self._attempts.attempt(
            AttemptKind.EMAIL_CHANGE, account=user_id, context=change.context, by=by, user_id=user_id
        ):
            found = await self._users.credentials(user_id)
            if found is None or found.password_hash or change.password:
                await self._passwords.prove(found, change.password, action=Action.EMAIL_CHANGE_START, by=by)
            elif found.user.status is not UserStatus.ACTIVE:
                await self._passwords.refused(user_id, action=Action.EMAIL_CHANGE_START, by=by)
            if found is None:
                raise login_refused()
            return found

    async def confirm_email_change(self, shown: Shown, *, by: Actor) -> tuple[User, int]:
        """Change the address. Errors: INVALID_FIELD, TRUST_TOKEN_REFUSED, TOO_MANY_ATTEMPTS."""
        fields = Fields()
        _check_shown(shown, fields)
        fields.refuse()
        async with self._tokens.redeeming(EMAIL_CHANGE, action=Action.EMAIL_CHANGE, context=shown.context, by=by):
            redemption, token = await self._tokens.good(shown.text, purpose=EMAIL_CHANGE, audience=shown.audience)
            now = self._clock.now()
            notice = None
            if self._tokens.can_mail(EMAIL_CHANGED):
                user = await self._users.get(token.user_id or "")
                notice = OutgoingMail(
                    id=self._random(16).hex(),
                    template=EMAIL_CHANGED,
                    recipient="",
                    locale="" if user is None else user.profile.locale,
                )
            event = by.event(Action.EMAIL_CHANGE, now=now, subject=redemption.jti)
            changed = await self._store.change_email(redemption, notice=notice, now=now, event=event)
            if changed is None:
                raise token_refused()
        return changed


def _check_shown(shown: Shown, fields: Fields) -> None:
    check_token(shown.text, shown.audience, fields)
    check_required_context(shown.context, fields)
