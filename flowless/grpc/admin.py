"""AdminService: message -> service -> message."""

from flowless.domain.bridges import Scope
from flowless.domain.fields import Fields
from flowless.grpc import convert
from flowless.grpc.authorization import actor
from flowless.grpc.replies import wrote
from flowless.services.audit import AuditLog
from flowless.services.barriers import Barriers
from flowless.services.bridges import Bridges
from flowless.services.revocation_tail import RevocationTail
from flowless.services.signing_keys import SigningKeys
from trust_core.clock import Clock
from trust_core.grpc_edge import Context
from trustlayer.v1 import admin_pb2 as pb
from trustlayer.v1 import admin_pb2_grpc


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """See proto/trustlayer/v1/admin.proto."""

    def __init__(
        self,
        *,
        bridges: Bridges,
        audit: AuditLog,
        keys: SigningKeys,
        barriers: Barriers,
        tail: RevocationTail,
        clock: Clock,
    ) -> None:
        self._bridges = bridges
        self._audit = audit
        self._keys = keys
        self._barriers = barriers
        self._tail = tail
        self._clock = clock

    async def CreateBridge(self, request: pb.CreateBridgeRequest, context: Context) -> pb.CreateBridgeResponse:
        """See the proto."""
        fields = Fields()
        scopes: set[Scope] = set()
        for number in request.scopes:
            try:
                scopes.add(Scope(number))
            except ValueError:
                fields.add("scopes", "scopes that a bridge can hold")
        fields.refuse()
        new = await self._bridges.create(
            request.name, frozenset(scopes), client_id=request.client_id, by=actor(context)
        )
        return pb.CreateBridgeResponse(bridge=convert.bridge(new.bridge, self._clock.now()), secret=new.secret)

    async def ListBridges(self, request: pb.ListBridgesRequest, context: Context) -> pb.ListBridgesResponse:
        """See the proto."""
        now = self._clock.now()
        return pb.ListBridgesResponse(bridges=[convert.bridge(b, now) for b in await self._bridges.list()])

    async def RotateBridgeSecret(
        self, request: pb.RotateBridgeSecretRequest, context: Context
    ) -> pb.RotateBridgeSecretResponse:
        """See the proto."""
        fields = Fields()
        overlap = convert.time_delta("overlap", request.overlap, fields)
        fields.refuse()
        new = await self._bridges.rotate(request.bridge_id, overlap=overlap, by=actor(context))
        return pb.RotateBridgeSecretResponse(bridge=convert.bridge(new.bridge, self._clock.now()), secret=new.secret)

    async def BindBridge(self, request: pb.BindBridgeRequest, context: Context) -> pb.BindBridgeResponse:
        """See the proto."""
        bound = await self._bridges.bind(request.bridge_id, request.client_id, by=actor(context))
        return pb.BindBridgeResponse(bridge=convert.bridge(bound, self._clock.now()))

    async def RevokeBridge(self, request: pb.RevokeBridgeRequest, context: Context) -> pb.RevokeBridgeResponse:
        """See the proto."""
        revision = await self._bridges.revoke(request.bridge_id, by=actor(context))
        return pb.RevokeBridgeResponse(revision=wrote(context, revision))

    async def RotateSigningKey(
        self, request: pb.RotateSigningKeyRequest, context: Context
    ) -> pb.RotateSigningKeyResponse:
        """See the proto."""
        fields = Fields()
        overlap = convert.time_delta("overlap", request.overlap, fields)
        fields.refuse()
        active = await self._keys.rotate(overlap=overlap, by=actor(context))
        return pb.RotateSigningKeyResponse(key_id=active.key_id)

    async def ListSigningKeys(
        self, request: pb.ListSigningKeysRequest, context: Context
    ) -> pb.ListSigningKeysResponse:
        """See the proto."""
        keys = [convert.signing_key(key, self._keys.public_text(key)) for key in await self._keys.all()]
        return pb.ListSigningKeysResponse(keys=keys)

    async def DestroySigningKey(
        self, request: pb.DestroySigningKeyRequest, context: Context
    ) -> pb.DestroySigningKeyResponse:
        """See the proto."""
        await self._keys.destroy(request.key_id, by=actor(context))
        return pb.DestroySigningKeyResponse()

    async def ListWatchers(self, request: pb.ListWatchersRequest, context: Context) -> pb.ListWatchersResponse:
        """See the proto."""
        replicas = [convert.replica(record) for record in await self._barriers.replicas()]
        return pb.ListWatchersResponse(replicas=replicas, revision=self._tail.position.revision)

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: Context
    ) -> pb.ListAuditEventsResponse:
        """See the proto."""
        position = convert.from_page_token(request.page_token, parts=1)
        page = await self._audit.page(
            page_size=request.page_size, before=convert.sequence(position), user_id=request.user_id
        )
        return pb.ListAuditEventsResponse(
            events=[convert.audit_event(record) for record in page.records],
            next_page_token="" if page.next_before is None else convert.page_token(str(page.next_before)),
        )
