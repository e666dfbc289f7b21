"""TrustTokenService: message -> service -> message."""

from google.protobuf import json_format

from flowless.domain.fields import Fields
from flowless.grpc import convert
from flowless.grpc.authorization import actor, caller
from flowless.grpc.replies import wrote
from flowless.services.signing_keys import SigningKeys
from flowless.services.trust_tokens import IssueRequest, TrustTokens
from trust_core.grpc_edge import Context
from trustlayer.v1 import trust_token_pb2 as pb
from trustlayer.v1 import trust_token_pb2_grpc


class TrustTokenServicer(trust_token_pb2_grpc.TrustTokenServiceServicer):
    """See proto/trustlayer/v1/trust_token.proto."""

    def __init__(self, *, tokens: TrustTokens, keys: SigningKeys) -> None:
        self._tokens = tokens
        self._keys = keys

    async def IssueTrustToken(
        self, request: pb.IssueTrustTokenRequest, context: Context
    ) -> pb.IssueTrustTokenResponse:
        """See the proto."""
        fields = Fields()
        wish = IssueRequest(
            purpose=request.purpose,
            subject=request.subject,
            audience=request.audience,
            lifetime=convert.time_delta("lifetime", request.lifetime, fields),
            by_mail=convert.by_mail(request.delivery, fields),
            bridge_id=caller().bridge.id,
            data=convert.plain("data", request.data),
            locale=request.locale,
            context=convert.context(request.context),
        )
        fields.refuse()
        issued = await self._tokens.issue(wish, by=actor(context, client_ip=request.context.client_ip))
        return pb.IssueTrustTokenResponse(token=issued.text, expire_time=convert.timestamp(issued.expires_at))

    async def CheckTrustToken(
        self, request: pb.CheckTrustTokenRequest, context: Context
    ) -> pb.CheckTrustTokenResponse:
        """See the proto."""
        token = await self._tokens.check(request.token, purpose=request.purpose, audience=request.audience)
        return pb.CheckTrustTokenResponse(expire_time=convert.timestamp(token.expires_at), email=token.email)

    async def ConsumeTrustToken(
        self, request: pb.ConsumeTrustTokenRequest, context: Context
    ) -> pb.ConsumeTrustTokenResponse:
        """See the proto."""
        redeemed = await self._tokens.consume(
            request.token,
            purpose=request.purpose,
            audience=request.audience,
            context=convert.context(request.context),
            by=actor(context, client_ip=request.context.client_ip),
        )
        token = redeemed.token
        response = pb.ConsumeTrustTokenResponse(user_id=token.user_id or "", email=token.email)
        if token.data:
            json_format.ParseDict(dict(token.data), response.data)
        if redeemed.revision:
            response.revision = wrote(context, redeemed.revision)
        return response

    async def RevokeTrustTokens(
        self, request: pb.RevokeTrustTokensRequest, context: Context
    ) -> pb.RevokeTrustTokensResponse:
        """See the proto."""
        await self._tokens.revoke(request.subject, request.purpose, by=actor(context))
        return pb.RevokeTrustTokensResponse()

    async def GetPublicKeys(self, request: pb.GetPublicKeysRequest, context: Context) -> pb.GetPublicKeysResponse:
        """See the proto."""
        return pb.GetPublicKeysResponse(keys=await self._keys.public_texts())
