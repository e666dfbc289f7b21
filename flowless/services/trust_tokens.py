"""Use cases of trust tokens: issue, check, consume, revoke. What takes effect elsewhere is in `token_effects.py`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from flowless.domain.attempts import AttemptKind, login_account
from flowless.domain.audit import Action, Actor, Outcome
from flowless.domain.contexts import check_context
from flowless.domain.fields import Fields
from flowless.domain.mail import OutgoingMail
from flowless.domain.trust_tokens import (
    AUDIENCE_CHARS,
    BUILT_IN,
    DATA_BYTES,
    EMAIL_CHANGE,
    EMAIL_VERIFY,
    INVITATION,
    TOKEN_CHARS,
    Purpose,
    Redemption,
    TrustToken,
    claims_of,
    implicit_assertion,
    jti_of,
)
from flowless.domain.users import EMAIL_BYTES, Profile, UserStatus, checked_profile
from flowless.ports.addresses import EmailAddresses
from flowless.ports.audit import AuditTrail
from flowless.ports.stores import Credentials, UserStore
from flowless.ports.trust_tokens import Redeemed, TokenFormat, TrustTokenStore
from flowless.services.attempts import AttemptLimiter
from flowless.services.signing_keys import SigningKeys
from trust_core.clock import Clock
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import RandomBytes, is_user_id
from trust_core.modes import RequestContext

_DATA_DEPTH: Final = 8
_SIGNING_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueRequest:
    """What a bridge asks for. With `by_mail` Flowless sends the token, and the answer has none."""

    purpose: str
    subject: str
    audience: str
    lifetime: timedelta
    by_mail: bool
    bridge_id: str
    data: Mapping[str, Any]
    locale: str
    context: RequestContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A token that was issued; `text` is empty when it goes by mail."""

    text: str
    expires_at: datetime


def token_refused() -> TrustError:
    """Build the one answer to every token that cannot be redeemed."""
    return TrustError(Reason.TRUST_TOKEN_REFUSED, "the trust token is not valid; ask for a new one")


class TrustTokens:
    """See the module."""

    def __init__(
        self,
        *,
        store: TrustTokenStore,
        users: UserStore,
        keys: SigningKeys,
        tokens: TokenFormat,
        addresses: EmailAddresses,
        audit: AuditTrail,
        attempts: AttemptLimiter,
        purposes: frozenset[str],
        mail_purposes: frozenset[str],
        clock: Clock,
        random: RandomBytes,
    ) -> None:
        """`purposes` are those that the deployment adds; `mail_purposes` those that Flowless can send by mail."""
        self._store = store
        self._users = users
        self._keys = keys
        self._tokens = tokens
        self._addresses = addresses
        self._audit = audit
        self._attempts = attempts
        self._purposes = BUILT_IN | {name: Purpose(name=name) for name in purposes}
        self._mail_purposes = mail_purposes
        self._clock = clock
        self._random = random

    async def issue(self, request: IssueRequest, *, by: Actor) -> Issued:
        """Sign a token and void the subject's unspent ones of this purpose.

        For an address that nobody has, or a user who is disabled, a purpose that needs a user costs and answers the
        same, and redeems nothing.
        Errors: INVALID_FIELD, TOO_MANY_ATTEMPTS, SIGNING_NOT_CONFIGURED, MAIL_NOT_CONFIGURED.
        """
        fields = Fields()
        purpose = self._purposes.get(request.purpose)
        if purpose is None or request.purpose == EMAIL_CHANGE:
            fields.add("purpose", "one that this deployment knows; email_change is issued by StartEmailChange")
            purpose = Purpose(name="")
        self.check_terms(purpose, request.audience, request.lifetime, fields)
        check_context(request.context, fields)
        fields.text("locale", request.locale, most=35)
        fields.json_object("data", request.data, most=DATA_BYTES, deepest=_DATA_DEPTH)
        canonical = self._checked_subject(request, fields)
        if request.purpose == INVITATION:
            invited_profile(request.data, fields)
        fields.refuse()
        self.require_mail(request.purpose, by_mail=request.by_mail)
        account = login_account(canonical) if canonical is not None else request.subject
        async with self._attempts.attempt(AttemptKind.TOKEN_ISSUE, account=account, context=request.context, by=by):
            return await self._issue(request, purpose, canonical, by=by)

    async def _issue(self, request: IssueRequest, purpose: Purpose, canonical: str | None, *, by: Actor) -> Issued:
        found = await self._subject(request.subject, canonical)
        user = None if found is None else found.user
        # A user id that nobody has is nobody for every purpose; an address may be written to all the same.
        is_nobody = user is None and canonical is None
        if purpose.needs_user:
            is_nobody = user is None or user.status is not UserStatus.ACTIVE
        email = request.subject if user is None or is_nobody else user.email
        token = await self.unsigned(
            purpose=request.purpose,
            audience=request.audience,
            user_id=None if user is None or is_nobody else user.id,
            email=email if canonical is not None or not is_nobody else "",
            lifetime=request.lifetime,
            bridge_id=request.bridge_id,
            data=request.data,
            is_void=is_nobody,
            token_epoch=0 if found is None or is_nobody else found.token_epoch,
        )
        locale = request.locale or ("" if user is None else user.profile.locale)
        return await self.issued(token, locale=locale, by_mail=request.by_mail, action=Action.TOKEN_ISSUE, by=by)

    def check_terms(self, purpose: Purpose, audience: str, lifetime: timedelta, fields: Fields) -> None:
        """Note an audience or a lifetime that this purpose does not take."""
        fields.text("audience", audience, least=1, most=AUDIENCE_CHARS)
        if not timedelta(seconds=1) <= lifetime <= purpose.longest:
            fields.add("lifetime", f"1 to {purpose.longest // timedelta(seconds=1)} seconds")

    def require_mail(self, purpose: str, *, by_mail: bool) -> None:
        """Refuse what Flowless cannot send. Errors: MAIL_NOT_CONFIGURED."""
        if by_mail and not self.can_mail(purpose):
            raise TrustError(
                Reason.MAIL_NOT_CONFIGURED, f"this Flowless sends no mail for {purpose}: see smtp_url and link_urls"
            )

    def can_mail(self, template: str) -> bool:
        """Whether Flowless can send this mail."""
        return template in self._mail_purposes

    def _checked_subject(self, request: IssueRequest, fields: Fields) -> str | None:
        """Canonical address of a subject that is one; `None` for a user id."""
        if is_user_id(request.subject) and request.purpose != INVITATION:
            return None
        canonical = self._addresses.canonical(request.subject)
        if canonical is None:
            fields.add("subject", f"a user id or an e-mail address of at most {EMAIL_BYTES} bytes")
        return canonical

    async def _subject(self, subject: str, canonical: str | None) -> Credentials | None:
        if canonical is None:
            return await self._users.credentials(subject)
        return await self._users.credentials_by_email(canonical)

    async def unsigned(
        self,
        *,
        purpose: str,
        audience: str,
        user_id: str | None,
        email: str,
        lifetime: timedelta,
        bridge_id: str,
        data: Mapping[str, Any],
        is_void: bool,
        token_epoch: int,
    ) -> TrustToken:
        """Make the record of a token that is issued now, to be signed by the active key."""
        now = self._clock.now()
        return TrustToken(
            jti=self._random(16).hex(),
            purpose=purpose,
            audience=audience,
            user_id=user_id,
            email=email,
            canonical_email=self._addresses.canonical(email) or "",
            key_id=(await self._keys.active()).key_id,
            bridge_id=bridge_id,
            created_at=now,
            expires_at=now + lifetime,
            data=data,
            is_void=is_void,
            token_epoch=token_epoch,
        )

    async def issued(
        self,
        token: TrustToken,
        *,
        locale: str,
        by_mail: bool,
        notices: tuple[OutgoingMail, ...] = (),
        action: Action,
        by: Actor,
    ) -> Issued:
        """Store a token and give its text, or leave it to the mail."""
        mail = notices if by_mail else ()
        if by_mail:
            first = OutgoingMail(
                id=self._random(16).hex(),
                template=token.purpose,
                recipient=token.email,
                locale=locale,
                jti=token.jti,
            )
            mail = (first, *notices)
        event = by.event(
            action,
            now=token.created_at,
            subject=token.jti,
            user_id=token.user_id or "",
            purpose=token.purpose,
            mail=by_mail,
        )
        for _ in range(_SIGNING_ATTEMPTS):
            # Signed before it is stored, mailed or not, known or not: the same work, and an unusable key shows now.
            text = await self._signed(token)
            if text is not None and await self._store.issue(token, mail=mail, event=event):
                return Issued(text="" if by_mail else text, expires_at=token.expires_at)
            # The key was retired since it was read: what it signs from now on may be void already.
            self._keys.forget()
            token = replace(token, key_id=(await self._keys.active()).key_id)
        raise TrustError(Reason.CONFLICT, "signing keys are being rotated; retry")

    async def _signed(self, token: TrustToken) -> str | None:
        """Sign; `None` when the token's key verifies nothing any more."""
        key = await self._keys.key(token.key_id)
        if key is None:
            return None
        return self._tokens.sign(key, claims_of(token), implicit=implicit_assertion(token.purpose, token.audience))

    async def token_text(self, jti: str) -> str | None:
        """Sign a token again from its row, the same text as at issue; `None` when it cannot be redeemed any more.

        So that a mail can carry it that was stored without it. Errors: SIGNING_NOT_CONFIGURED, those of storage.
        """
        token = await self._store.get(jti, now=self._clock.now())
        return None if token is None else await self._signed(token)

    async def authentic(self, text: str, *, purpose: str, audience: str) -> Redemption:
        """Say what a token wants to redeem whose signature is right. Errors: TRUST_TOKEN_REFUSED.

        Nothing is read of the token before its signature, and of the signed claims nothing but the jti.
        """
        parsed = self._tokens.parse(text)
        key = None if parsed is None else await self._keys.key(parsed.key_id)
        if parsed is None or key is None:
            raise token_refused()
        claims = self._tokens.verified(parsed, key, implicit=implicit_assertion(purpose, audience))
        jti = None if claims is None else jti_of(claims)
        if jti is None:
            raise token_refused()
        return Redemption(jti=jti, purpose=purpose, audience=audience)

    async def good(self, text: str, *, purpose: str, audience: str) -> tuple[Redemption, TrustToken]:
        """Read a token that could be redeemed now, without spending it. Errors: TRUST_TOKEN_REFUSED."""
        redemption = await self.authentic(text, purpose=purpose, audience=audience)
        token = await self._store.find_good(redemption, now=self._clock.now())
        if token is None:
            raise token_refused()
        return redemption, token

    async def check(self, text: str, *, purpose: str, audience: str) -> TrustToken:
        """Say whether a token could be redeemed now. Errors: INVALID_FIELD, TRUST_TOKEN_REFUSED."""
        fields = Fields()
        check_token(text, audience, fields)
        self._known(purpose, fields)
        fields.refuse()
        return (await self.good(text, purpose=purpose, audience=audience))[1]

    async def consume(
        self, text: str, *, purpose: str, audience: str, context: RequestContext, by: Actor
    ) -> Redeemed:
        """Spend a token of a purpose that no other use case redeems.

        Errors: INVALID_FIELD, TRUST_TOKEN_REFUSED, TOO_MANY_ATTEMPTS.
        """
        fields = Fields()
        check_token(text, audience, fields)
        check_context(context, fields)
        known = self._known(purpose, fields)
        if known is not None and known.redeemed_by:
            fields.add("purpose", f"redeemed by {known.redeemed_by}")
        fields.refuse()
        action = Action.EMAIL_VERIFY if purpose == EMAIL_VERIFY else Action.TOKEN_CONSUME
        async with self.redeeming(purpose, action=action, context=context, by=by):
            redemption = await self.authentic(text, purpose=purpose, audience=audience)
            now = self._clock.now()
            event = by.event(action, now=now, subject=redemption.jti, purpose=purpose)
            spend = self._store.verify_email if purpose == EMAIL_VERIFY else self._store.consume
            return refused_if_none(await spend(redemption, now=now, event=event))

    @asynccontextmanager
    async def redeeming(
        self, purpose: str, *, action: Action, context: RequestContext, by: Actor
    ) -> AsyncIterator[None]:
        """Count what is in the block as one attempt, and leave an event if the token is refused.

        Whose token it is nobody knows before: attempts are counted by network and bridge. Errors: TOO_MANY_ATTEMPTS.
        """
        async with self._attempts.attempt(AttemptKind.TOKEN_CONSUME, account="", context=context, by=by):
            try:
                yield
            except TrustError as error:
                if error.reason is Reason.TRUST_TOKEN_REFUSED:
                    event = by.event(action, now=self._clock.now(), outcome=Outcome.REFUSED, purpose=purpose)
                    await self._audit.record(event)
                raise

    async def revoke(self, subject: str, purpose: str, *, by: Actor) -> None:
        """Void the subject's unspent tokens of a purpose; idempotent. Errors: INVALID_FIELD."""
        fields = Fields()
        canonical = None if is_user_id(subject) else self._addresses.canonical(subject)
        if canonical is None and not is_user_id(subject):
            fields.add("subject", f"a user id or an e-mail address of at most {EMAIL_BYTES} bytes")
        self._known(purpose, fields)
        fields.refuse()
        found = await self._subject(subject, canonical)
        user_id = None if found is None else found.user.id
        if found is not None:
            canonical = self._addresses.canonical(found.user.email)
        now = self._clock.now()
        event = by.event(Action.TOKEN_REVOKE, now=now, subject=user_id or "", user_id=user_id or "", purpose=purpose)
        await self._store.revoke(purpose, user_id=user_id, canonical_email=canonical or "", now=now, event=event)

    def _known(self, purpose: str, fields: Fields) -> Purpose | None:
        known = self._purposes.get(purpose)
        if known is None:
            fields.add("purpose", "one that this deployment knows")
        return known


def refused_if_none(redeemed: Redeemed | None) -> Redeemed:
    """Pass on what was redeemed. Errors: TRUST_TOKEN_REFUSED."""
    if redeemed is None:
        raise token_refused()
    return redeemed


def check_token(text: str, audience: str, fields: Fields) -> None:
    """Note a token that is missing or absurdly long, and a missing audience. What is in it is not looked at."""
    if not text or len(text) > TOKEN_CHARS:
        fields.add("token", f"required, at most {TOKEN_CHARS} characters")
    fields.text("audience", audience, least=1, most=AUDIENCE_CHARS)


def invited_profile(data: Mapping[str, Any], fields: Fields) -> Profile:
    """Read roles and user type of the user to be, and note what is wrong with them."""
    roles, user_type = data.get("roles", []), data.get("user_type", "")
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        fields.add("data", "`roles` is a list of text")
        roles = []
    if not isinstance(user_type, str):
        fields.add("data", "`user_type` is text")
        user_type = ""
    profile = Profile(roles=tuple(roles), user_type=user_type)
    return checked_profile(profile, fields, only=frozenset({"roles", "user_type"}))
