"""BridgeService: validation, the watch stream, activity."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

from flowless.domain.fields import Fields
from flowless.domain.sessions import ActiveSession, SessionActivity
from flowless.grpc import convert
from flowless.grpc.authorization import actor, caller
from flowless.grpc.watch import WatchStream
from flowless.ports.stores import RevocationLog
from flowless.services.barriers import Barriers
from flowless.services.bridges import Bridges
from flowless.services.revocation_tail import RevocationTail
from flowless.services.sessions import Sessions
from flowless.services.watchers import Watchers
from trust_core.clock import Clock
from trust_core.errors import Reason, TrustError
from trust_core.grpc_edge import Context
from trust_core.modes import DenialReason
from trust_core.tracing import Tracer
from trustlayer.v1 import bridge_pb2 as pb
from trustlayer.v1 import bridge_pb2_grpc, types_pb2

_MAX_PREWARMING: Final = 4
_PREWARM_SECONDS: Final = 10.0


class BridgeServicer(bridge_pb2_grpc.BridgeServiceServicer):
    """See proto/trustlayer/v1/bridge.proto."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        bridges: Bridges,
        tail: RevocationTail,
        log: RevocationLog,
        watchers: Watchers,
        barriers: Barriers,
        longest_staleness: timedelta,
        clock: Clock,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._sessions = sessions
        self._watchers = watchers
        self._barriers = barriers
        self._longest_staleness = longest_staleness
        self._clock = clock
        self._bridges = bridges
        self._tail = tail
        self._log = log
        self._prewarming = 0

    async def ValidateSession(
        self, request: pb.ValidateSessionRequest, context: Context
    ) -> pb.ValidateSessionResponse:
        """See the proto."""
        mode = convert.mode(request.mode)
        fields = Fields()
        max_staleness = convert.time_delta("max_staleness", request.max_staleness, fields)
        fields.refuse()
        answer = await self._sessions.validate(
            request.session_id,
            mode=mode,
            context=convert.context(request.context),
            min_revision=request.min_revision,
            max_staleness=max_staleness,
        )
        if isinstance(answer.result, ActiveSession):
            active, denial = convert.cacheable(answer.result, with_binding=mode is None), None
        else:
            active, denial = None, convert.denial(answer.result)
        tier = types_pb2.TIER_REDIS if answer.from_tier else types_pb2.TIER_DATABASE
        malformed = answer.result is DenialReason.MALFORMED
        freshness = types_pb2.Freshness(tier=types_pb2.TIER_NONE if malformed else tier, revision=answer.revision)
        if self._tracer is not None:
            denied = {} if isinstance(answer.result, ActiveSession) else {"trustlayer.denial": answer.result.name}
            self._tracer.note({"trustlayer.tier": "REDIS" if answer.from_tier else "DATABASE", **denied})
        return pb.ValidateSessionResponse(active=active, denial=denial, freshness=freshness)

    async def ReportMismatch(self, request: pb.ReportMismatchRequest, context: Context) -> pb.ReportMismatchResponse:
        """See the proto."""
        report = await self._sessions.report_mismatch(
            request.session_id,
            mode=convert.mode(request.mode),
            context=convert.context(request.context),
            prefixes=(request.ipv4_prefix, request.ipv6_prefix),
            by=actor(context, client_ip=request.context.client_ip),
        )
        denial = None if report.denial is None else convert.denial(report.denial)
        return pb.ReportMismatchResponse(denial=denial, revoked=report.revoked, revision=report.revision)

    async def WatchRevocations(
        self, request_iterator: AsyncIterator[pb.WatchRevocationsRequest], context: Context
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        """See the proto."""
        stream = WatchStream(
            tail=self._tail,
            log=self._log,
            bridges=self._bridges,
            watchers=self._watchers,
            barriers=self._barriers,
            longest_staleness=self._longest_staleness,
            clock=self._clock,
            caller=caller(),
        )
        async for response in stream.serve(request_iterator):
            yield response

    async def ReportActivity(self, request: pb.ReportActivityRequest, context: Context) -> pb.ReportActivityResponse:
        """See the proto."""
        fields = Fields()
        activities = [
            SessionActivity(
                digest=activity.session_digest,
                idle_for=convert.time_delta("activities.idle_for", activity.idle_for, fields),
            )
            for activity in request.activities
        ]
        fields.refuse()
        remaining = await self._sessions.report_activity(activities, bridge_id=caller().bridge.id)
        return pb.ReportActivityResponse(
            sessions=[
                pb.SessionIdle(session_digest=digest, idle_remaining=convert.duration(left))
                for digest, left in remaining.items()
            ]
        )

    async def PrewarmSessions(
        self, request: pb.PrewarmSessionsRequest, context: Context
    ) -> AsyncIterator[pb.PrewarmSessionsResponse]:
        """See the proto."""
        self._hold_a_place()
        async for active, revision in self._sessions.recently_used(caller().bridge.id, limit=request.limit):
            yield pb.PrewarmSessionsResponse(
                session_digest=active.session.digest,
                session=convert.cacheable(active, with_binding=True),
                revision=revision,
            )

    def _hold_a_place(self) -> None:
        """Take one of few places until the stream ends, for a bounded time: a slow reader must not keep it."""
        if self._prewarming >= _MAX_PREWARMING:
            raise TrustError(Reason.TOO_MANY_CALLS, "this replica prewarms others now; ask another, or go on without")
        task = asyncio.current_task()
        if task is None:
            return
        self._prewarming += 1
        cut = asyncio.get_running_loop().call_later(_PREWARM_SECONDS, task.cancel)

        def ended(_: object) -> None:
            self._prewarming -= 1
            cut.cancel()

        task.add_done_callback(ended)
