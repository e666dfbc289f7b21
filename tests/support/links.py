"""What an app does with trust tokens: issue one, redeem it where it takes effect."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration

from tests.support.flowless import BROWSER, PASSWORD, Client
from trustlayer.v1 import identity_pb2, session_pb2, trust_token_pb2, types_pb2

AUDIENCE = "shop"
NEW_PASSWORD = "an entirely different passphrase"
HOUR = Duration(seconds=3_600)
REFUSED = ("UNAUTHENTICATED", "TRUST_TOKEN_REFUSED")


@dataclass(frozen=True)
class Links:
    """Trust tokens of one bridge."""

    client: Client

    def issue(self, purpose: str, subject: str, **fields: Any) -> str:
        """Issue a token that is good for an hour."""
        return self.issued(purpose, subject, **fields).token

    def issued(self, purpose: str, subject: str, **fields: Any) -> trust_token_pb2.IssueTrustTokenResponse:
        """The whole answer."""
        request = trust_token_pb2.IssueTrustTokenRequest(
            purpose=purpose, subject=subject, **{"audience": AUDIENCE, "lifetime": HOUR, **fields}
        )
        return self.client.tokens.IssueTrustToken(request)

    def log_in(
        self, token: str, *, audience: str = AUDIENCE, context: types_pb2.RequestContext = BROWSER
    ) -> session_pb2.LoginWithTrustTokenResponse:
        """Redeem a magic link."""
        return self.client.sessions.LoginWithTrustToken(
            session_pb2.LoginWithTrustTokenRequest(token=token, audience=audience, context=context)
        )

    def reset(self, token: str, password: str = NEW_PASSWORD) -> identity_pb2.ResetPasswordResponse:
        """Redeem a reset."""
        return self.client.identity.ResetPassword(
            identity_pb2.ResetPasswordRequest(token=token, audience=AUDIENCE, new_password=password, context=BROWSER)
        )

    def accept(self, token: str, **fields: Any) -> types_pb2.User:
        """Redeem an invitation."""
        request = identity_pb2.AcceptInvitationRequest(
            token=token, audience=AUDIENCE, context=BROWSER, **{"password": PASSWORD, **fields}
        )
        return self.client.identity.AcceptInvitation(request).user

    def change_email(self, user: types_pb2.User, new: str, password: str = PASSWORD) -> str:
        """Begin a change of address."""
        return self.client.identity.StartEmailChange(
            identity_pb2.StartEmailChangeRequest(
                user_id=user.id,
                new_email=new,
                current_password=password,
                audience=AUDIENCE,
                lifetime=HOUR,
                context=BROWSER,
            )
        ).token

    def confirm_email(self, token: str) -> identity_pb2.ConfirmEmailChangeResponse:
        """Redeem a change of address."""
        return self.client.identity.ConfirmEmailChange(
            identity_pb2.ConfirmEmailChangeRequest(token=token, audience=AUDIENCE, context=BROWSER)
        )

    def consume(
        self, token: str, purpose: str, audience: str = AUDIENCE
    ) -> trust_token_pb2.ConsumeTrustTokenResponse:
        """Redeem what has no RPC of its own."""
        return self.client.tokens.ConsumeTrustToken(
            trust_token_pb2.ConsumeTrustTokenRequest(token=token, purpose=purpose, audience=audience)
        )

    def check(self, token: str, purpose: str) -> trust_token_pb2.CheckTrustTokenResponse:
        """Look without spending."""
        return self.client.tokens.CheckTrustToken(
            trust_token_pb2.CheckTrustTokenRequest(token=token, purpose=purpose, audience=AUDIENCE)
        )
