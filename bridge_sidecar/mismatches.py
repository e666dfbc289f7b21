"""Sessions that were used from somewhere else than they were made: telling Flowless, which judges for itself.

A report is a task of its own. Who sends a stolen session id and hangs up at once must not thereby keep it from being
revoked, and two requests with one id need only one report.
"""

import asyncio
from typing import Any, Final, Protocol

from bridge_sidecar.routes import Rule
from trust_core import logs
from trust_core.errors import TrustError
from trust_core.modes import RequestContext, ValidationMode

_MAX_REPORTS: Final = 64
"""Under way at once; what comes on top is denied all the same, and counted."""


class MismatchReceiver(Protocol):
    """Who is told."""

    async def report_mismatch(
        self, session_id: str, *, mode: ValidationMode, context: RequestContext, rule: Rule, timeout_seconds: float
    ) -> int:
        """Return the revision of the revocation, 0 if nothing was revoked. Raises `TrustError`."""
        ...


class MismatchReporter:
    """See the module. Touched by the event loop only."""

    def __init__(self, *, receiver: MismatchReceiver, timeout_seconds: float) -> None:
        self._receiver = receiver
        self._timeout_seconds = timeout_seconds
        self._under_way: dict[str, asyncio.Task[int]] = {}
        self._log: Any = logs.get_logger("bridge-sidecar")
        self.reported = 0
        self.not_reported = 0

    async def report(self, session_id: str, mode: ValidationMode, context: RequestContext, rule: Rule) -> int:
        """Report, and return the revision of the revocation; 0 when nothing was revoked or nobody could be told."""
        task = self._under_way.get(session_id)
        if task is None:
            if len(self._under_way) >= _MAX_REPORTS:
                self.not_reported += 1
                return 0
            task = asyncio.create_task(self._tell(session_id, mode, context, rule))
            self._under_way[session_id] = task
            task.add_done_callback(lambda _: self._under_way.pop(session_id, None))
        return await asyncio.shield(task)

    async def _tell(self, session_id: str, mode: ValidationMode, context: RequestContext, rule: Rule) -> int:
        try:
            revision = await self._receiver.report_mismatch(
                session_id, mode=mode, context=context, rule=rule, timeout_seconds=self._timeout_seconds
            )
        except TrustError as error:
            self.not_reported += 1
            self._log.warning("a mismatch was not reported to Flowless", rule=rule.name, reason=error.reason.name)
            return 0
        self.reported += 1
        return revision

    async def close(self) -> None:
        """Wait for the reports under way; each has its own timeout."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
