"""TrustTokenService: declared, not built yet."""

from flowless.grpc.replies import not_implemented
from trust_core.grpc_edge import Context
from trustlayer.v1 import trust_token_pb2 as pb
from trustlayer.v1 import trust_token_pb2_grpc


class TrustTokenServicer(trust_token_pb2_grpc.TrustTokenServiceServicer):
    """See proto/trustlayer/v1/trust_token.proto."""

    async def IssueTrustToken(
        self, request: pb.IssueTrustTokenRequest, context: Context
    ) -> pb.IssueTrustTokenResponse:
        """See the proto."""
        not_implemented("TrustTokenService/IssueTrustToken")

    async def CheckTrustToken(
        self, request: pb.CheckTrustTokenRequest, context: Context
    ) -> pb.CheckTrustTokenResponse:
        """See the proto."""
        not_implemented("TrustTokenService/CheckTrustToken")

    async def RevokeTrustTokens(
        self, request: pb.RevokeTrustTokensRequest, context: Context
    ) -> pb.RevokeTrustTokensResponse:
        """See the proto."""
        not_implemented("TrustTokenService/RevokeTrustTokens")

    async def ConsumeTrustToken(
        self, request: pb.ConsumeTrustTokenRequest, context: Context
    ) -> pb.ConsumeTrustTokenResponse:
        """See the proto."""
        not_implemented("TrustTokenService/ConsumeTrustToken")

    async def GetPublicKeys(self, request: pb.GetPublicKeysRequest, context: Context) -> pb.GetPublicKeysResponse:
        """See the proto."""
        not_implemented("TrustTokenService/GetPublicKeys")
