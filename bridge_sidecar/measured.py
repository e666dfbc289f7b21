"""How long answers take, by who knew them: for metrics, and imported only where they are on.

Stands before the validator and answers as it does. What it adds to a hit is two looks at the clock and a few counts.
Touched by the event loop only; the metrics' thread reads.
"""

from collections.abc import Callable
from typing import Final

from bridge_sidecar.validator import Question, Tier, Validator, Verdict
from trust_core.histogram import Histogram

OTHER: Final = "other"
UNANSWERED: Final = "unanswered"


class MeasuredValidator:
    """See the module."""

    def __init__(self, *, validator: Validator, timer: Callable[[], int]) -> None:
        """`timer` gives nanoseconds since whenever; not the clock of leases, which costs several times as much."""
        self._validator = validator
        self._timer = timer
        self._by_tier = {int(tier): Histogram() for tier in Tier}
        self._of_other_tiers = Histogram()
        self._unanswered = Histogram()
        self.counters = validator.counters
        self.durations = {
            **{Tier(tier).name.lower(): histogram for tier, histogram in self._by_tier.items()},
            OTHER: self._of_other_tiers,
            UNANSWERED: self._unanswered,
        }
        """Who knew -> how long it took. `other`: a tier of a newer Flowless. `unanswered`: errors, callers gone."""

    async def validate(self, question: Question) -> Verdict:
        """See `Validator.validate`."""
        began_ns = self._timer()
        try:
            verdict = await self._validator.validate(question)
        except BaseException:
            self._unanswered.record(self._timer() - began_ns)
            raise
        self._by_tier.get(verdict.tier, self._of_other_tiers).record(self._timer() - began_ns)
        return verdict
