"""Limits on attempts, counted in memory."""

from flowless.adapters.attempts.counters import LocalCounters
from flowless.domain.attempts import AttemptLimits
from flowless.ports.attempts import AttemptCounters
from flowless.ports.audit import AuditRecorder
from flowless.services.attempts import AttemptLimiter
from trust_core.clock import Clock

LIMITS = AttemptLimits(
    free=100,
    delay_max_seconds=900,
    failed_per_account_per_day=100,
    failed_per_ip_per_hour=300,
    per_ip_per_minute=1_000,
    per_bridge_per_minute=10_000,
)


def new_limiter(
    *, clock: Clock, audit: AuditRecorder, limits: AttemptLimits = LIMITS, counters: AttemptCounters | None = None
) -> AttemptLimiter:
    """Make a limiter that counts in memory, unless counters are given."""
    return AttemptLimiter(
        counters=counters or LocalCounters(clock=clock, max_entries=10_000),
        limits=limits,
        audit=audit,
        key=b"k" * 32,
        clock=clock,
    )
