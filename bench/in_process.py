"""What a hit costs inside the sidecar's process, without gRPC: its own parts, put together as `bootstrap` does.

A hit never waits, so its coroutine ends at its first step and needs no event loop to run. Should that ever change,
`run_to_end` fails, and so does the measurement.
"""

from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from bench import sessions
from bridge_sidecar.activity import ActivityReporter, SessionIdle, SessionUse
from bridge_sidecar.config import SidecarConfig
from bridge_sidecar.lease import Lease
from bridge_sidecar.mismatches import MismatchReporter
from bridge_sidecar.revocation_watch import WatchState
from bridge_sidecar.routes import Routes, Rule
from bridge_sidecar.session_cache import CacheLimits, Entry, SessionCache
from bridge_sidecar.unix_server import ValidatorHandlers
from bridge_sidecar.validator import MissLimits, Question, Tier, UpstreamAnswer, Validator
from bridge_sidecar.watch_protocol import WatchFigures
from trust_core import identifiers, modes
from trust_core.clock import NS_PER_SECOND, SystemClock
from trustlayer.v1 import session_pb2, validator_pb2

LIFETIME_NS: Final = 24 * 3_600 * NS_PER_SECOND
"""Of the lease and of every entry: longer than any measurement."""
CONTEXT: Final = modes.RequestContext(
    client_ip=sessions.CONTEXT.client_ip,
    device_fingerprint=sessions.CONTEXT.device_fingerprint,
    user_agent=sessions.CONTEXT.user_agent,
)

Result = TypeVar("Result")


class _NoFlowless:
    """Upstream that must not be asked."""

    async def validate_session(self, session_id: str, *, min_revision: int, timeout_seconds: float) -> UpstreamAnswer:
        raise sessions.UnexpectedAnswerError("a cached session was asked for upstream")

    async def report_activity(self, uses: Sequence[SessionUse]) -> Sequence[SessionIdle]:
        return ()

    async def report_mismatch(
        self,
        session_id: str,
        *,
        mode: modes.ValidationMode,
        context: modes.RequestContext,
        rule: Rule,
        timeout_seconds: float,
    ) -> int:
        raise sessions.UnexpectedAnswerError("no mismatch is measured")


class _Watch:
    state = WatchState.LIVE
    figures = WatchFigures()


class InProcessHits:
    """The sidecar's hit path over a cache that holds these sessions."""

    def __init__(self, logins: Sequence[session_pb2.LoginResponse]) -> None:
        config, clock, flowless = SidecarConfig(), SystemClock(), _NoFlowless()
        cache = SessionCache(
            limits=CacheLimits(
                max_entries=config.cache_max_entries,
                max_bytes=config.cache_max_bytes,
                negative_max_entries=config.negative_max_entries,
                negative_ttl_ns=config.negative_ttl_ns,
            )
        )
        lease = Lease(max_staleness_ns=LIFETIME_NS)
        lease.renew(clock.elapsed_ns())
        mismatches = MismatchReporter(receiver=flowless, timeout_seconds=config.upstream_timeout_seconds)
        self._validator = Validator(
            cache=cache,
            lease=lease,
            source=flowless,
            activity=ActivityReporter(
                receiver=flowless,
                cache=cache,
                clock=clock,
                interval_seconds=config.activity_interval_seconds,
                max_entries=config.cache_max_entries,
            ),
            clock=clock,
            limits=MissLimits(
                max_concurrent=config.max_concurrent_misses,
                max_waiting=config.max_waiting_misses,
                upstream_timeout_seconds=config.upstream_timeout_seconds,
            ),
            mismatches=mismatches,
        )
        routes = Routes(config.route_table)
        self._handlers = ValidatorHandlers(
            answerer=self._validator,
            cache=cache,
            lease=lease,
            watch=_Watch(),
            clock=clock,
            routes=routes,
            mismatches=mismatches,
            routes_required=config.routes_required,
            max_staleness_ns=config.max_staleness_ns,
        )
        now_ns = clock.elapsed_ns()
        for login in logins:
            entry = Entry(
                payload=validator_pb2.ValidateResponse(session=login.session).SerializeToString(),
                user_id=login.session.user.id,
                binding=modes.bind(CONTEXT, b"k" * 32),
                roles=frozenset(login.session.user.roles),
                authenticated_at_ns=now_ns,
                revision=cache.applied_revision,
                absolute_expires_at_ns=now_ns + LIFETIME_NS,
                idle_expires_at_ns=now_ns + LIFETIME_NS,
                filled_at_ns=now_ns,
            )
            cache.insert(cache.ticket(), identifiers.digest(login.session_id), entry, now_ns)
        self._questions = [
            Question(session_id=login.session_id, mode=config.mode, context=CONTEXT, rule=routes.table.unnamed)
            for login in logins
        ]
        self._requests = [sessions.request_for(login.session_id).SerializeToString() for login in logins]

    def lookup(self, number: int) -> object:
        """Answer one question from the cache: checksum, digest, lease, lookup, mode, activity."""
        verdict = run_to_end(self._validator.validate(self._questions[number]))
        if verdict.tier != Tier.LRU or not verdict.payload:
            raise sessions.UnexpectedAnswerError("a cached session was not answered from the LRU")
        return verdict

    def bytes_to_bytes(self, number: int) -> object:
        """Do all of the sidecar's own work for one call: from the request's bytes to the answer's."""
        request = validator_pb2.ValidateRequest.FromString(self._requests[number])
        # No handler looks at the call's context.
        context: Any = None
        return run_to_end(self._handlers.validate(request, context))


def run_to_end(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    coroutine.close()
    raise sessions.UnexpectedAnswerError("a hit waited for something")
