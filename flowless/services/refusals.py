"""Calls that were refused at the door: how many and why, and an event now and then.

Anybody who reaches the port can cause them, so what they leave is bounded: a number by reason, and one audit event
and one line of log for each reason and bridge in a minute (OWASP ASVS 5.0 16.3.2).

Shared state: the numbers and the moments, touched by the event loop only; the metrics thread reads numbers.
"""

from collections.abc import Callable
from typing import Final

from flowless.domain.audit import Action, Actor, Outcome
from flowless.ports.audit import AuditRecorder
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import Reason, TrustError

NOBODY: Final = "unknown"
_QUIET_NS: Final = 60 * NS_PER_SECOND
_MOST_KEYS: Final = 1_000


class Refusals:
    """See the module."""

    def __init__(self, *, audit: AuditRecorder, clock: Clock, on_refusal: Callable[[str, str, str], None]) -> None:
        """`on_refusal` is told reason, method and bridge of those that leave an event."""
        self._audit = audit
        self._clock = clock
        self._on_refusal = on_refusal
        self._said: dict[tuple[Reason, str], int] = {}
        self.counts: dict[Reason, int] = {}

    async def note(self, error: TrustError, *, method: str, bridge_id: str) -> None:
        """Count a refusal. `method` is one of ours or empty; `bridge_id` is empty when nobody is known.

        Never raises: who is refused is refused, whether or not that could be written down.
        """
        self.counts[error.reason] = self.counts.get(error.reason, 0) + 1
        key, now_ns = (error.reason, bridge_id), self._clock.elapsed_ns()
        said = self._said.pop(key, None)
        if said is not None and now_ns - said < _QUIET_NS:
            self._said[key] = said
            return
        if len(self._said) >= _MOST_KEYS:
            del self._said[next(iter(self._said))]
        self._said[key] = now_ns
        self._on_refusal(error.reason.value, method, bridge_id)
        by = Actor.of_bridge(bridge_id, request_id="") if bridge_id else Actor(name=NOBODY)
        event = by.event(
            Action.CALL_REFUSED,
            now=self._clock.now(),
            outcome=Outcome.REFUSED,
            subject=bridge_id,
            reason=error.reason.value,
            method=method,
        )
        try:
            await self._audit.record(event)
        except TrustError:
            return
