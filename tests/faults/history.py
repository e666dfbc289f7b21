"""Did what the clients saw keep the guarantee? Pure: a history in, violations out.

Clients record the start and the end of every call by one monotonic clock, that of the test host (or of the
simulation). No clock of a program under test is looked at. Revocation is final, so one scan per session decides:

- `STALE_YES`: a validation that started later than its bound after a revoke had returned was answered ACTIVE. The
  bound is `max_staleness`; zero after a revoke whose barrier was reached; longer by what the operator granted for an
  answer that is marked as served beyond the lease.
- `READ_OWN_WRITE`: a validation that demanded the revoke's revision was answered ACTIVE, or a definite answer is of a
  revision before the one demanded.
- `FALSE_NO`: a session that no revoke had begun to end was denied. (Sessions of these tests do not expire.)

UNAVAILABLE is never a violation; it is counted, as availability.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

NS_PER_MS: Final = 1_000_000


class Outcome(StrEnum):
    """How a validation ended."""

    ACTIVE = "ACTIVE"
    DENIED = "DENIED"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A session that came into being. Before `ended_ns` nothing is expected of it."""

    session: str
    started_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke:
    """A call that ends these sessions. `ended_ns` is None for a call that failed: it may have happened, or not."""

    sessions: frozenset[str]
    started_ns: int
    ended_ns: int | None
    revision: int = 0
    barrier_reached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """A question and its answer. `beyond_lease` marks an answer that an operator allowed beyond the lease."""

    session: str
    sidecar: str
    started_ns: int
    ended_ns: int
    outcome: Outcome
    reason: str = ""
    revision: int = 0
    min_revision: int = 0
    beyond_lease: bool = False


Event = Login | Revoke | Validation


class Rule(StrEnum):
    """What can be broken."""

    STALE_YES = "STALE_YES"
    READ_OWN_WRITE = "READ_OWN_WRITE"
    FALSE_NO = "FALSE_NO"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise, and the event that shows it."""

    rule: Rule
    event: Validation
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What was promised, in nanoseconds. `granted_beyond_ns`: how long beyond the lease an operator let routes go."""

    max_staleness_ns: int
    granted_beyond_ns: int = 0


@dataclass(slots=True, kw_only=True)
class Report:
    """What a history shows."""

    violations: list[Violation] = field(default_factory=list)
    revocations: int = 0
    barriers: int = 0
    validations: int = 0
    worst_delay_ns: int = 0
    """The latest start, after its revoke had returned, of a validation that was still answered ACTIVE."""
    of_live: int = 0
    """Validations of sessions that nobody had begun to revoke when they ended."""
    of_live_answered: int = 0

    @property
    def availability(self) -> float:
        """Share of the validations of live sessions that were answered; 1 when there were none."""
        return self.of_live_answered / self.of_live if self.of_live else 1.0

    def add(self, other: "Report") -> None:
        """Take another history's figures into these."""
        self.violations += other.violations
        self.revocations += other.revocations
        self.barriers += other.barriers
        self.validations += other.validations
        self.worst_delay_ns = max(self.worst_delay_ns, other.worst_delay_ns)
        self.of_live += other.of_live
        self.of_live_answered += other.of_live_answered


@dataclass(frozen=True, slots=True)
class _Ends:
    """What is known of the revokes of one session."""

    first_started_ns: int
    revokes: Sequence[Revoke]


def check(events: Iterable[Event], bounds: Bounds) -> Report:
    """Check a history; the order of the events does not matter."""
    report = Report()
    revokes: dict[str, list[Revoke]] = defaultdict(list)
    exists_from: dict[str, int] = {}
    validations: list[Validation] = []
    for event in events:
        if isinstance(event, Revoke):
            for session in event.sessions:
                revokes[session].append(event)
            report.revocations += event.ended_ns is not None
            report.barriers += event.barrier_reached
        elif isinstance(event, Login):
            exists_from[event.session] = event.ended_ns
        else:
            validations.append(event)
    ends = {session: _Ends(min(r.started_ns for r in found), found) for session, found in revokes.items()}
    for validation in validations:
        report.validations += 1
        _check_yes_and_no(validation, ends.get(validation.session), exists_from, report)
        if validation.outcome is not Outcome.UNAVAILABLE and validation.revision < validation.min_revision:
            report.violations.append(
                Violation(
                    Rule.READ_OWN_WRITE,
                    validation,
                    f"answered as of revision {validation.revision}, asked for {validation.min_revision}",
                )
            )
        if validation.outcome is Outcome.ACTIVE and validation.session in ends:
            _check_staleness(validation, ends[validation.session], bounds, report)
    return report


def _check_yes_and_no(
    validation: Validation, ends: _Ends | None, exists_from: dict[str, int], report: Report
) -> None:
    live = ends is None or validation.ended_ns <= ends.first_started_ns
    exists = validation.started_ns >= exists_from.get(validation.session, validation.started_ns + 1)
    if not live or not exists:
        return
    report.of_live += 1
    report.of_live_answered += validation.outcome is not Outcome.UNAVAILABLE
    if validation.outcome is Outcome.DENIED:
        report.violations.append(
            Violation(Rule.FALSE_NO, validation, f"a live session was denied: {validation.reason}")
        )


def _check_staleness(validation: Validation, ends: _Ends, bounds: Bounds, report: Report) -> None:
    for revoke in ends.revokes:
        if revoke.ended_ns is None:
            continue
        if 0 < revoke.revision <= validation.min_revision:
            report.violations.append(
                Violation(
                    Rule.READ_OWN_WRITE,
                    validation,
                    f"ACTIVE although revision {revoke.revision}, which ends it, was asked for",
                )
            )
        bound_ns = 0 if revoke.barrier_reached else bounds.max_staleness_ns
        if validation.beyond_lease:
            bound_ns = bounds.max_staleness_ns + bounds.granted_beyond_ns
        delay_ns = validation.started_ns - revoke.ended_ns
        report.worst_delay_ns = max(report.worst_delay_ns, delay_ns)
        if delay_ns > bound_ns:
            report.violations.append(
                Violation(
                    Rule.STALE_YES,
                    validation,
                    f"ACTIVE for a question that came {delay_ns / NS_PER_MS:.1f} ms after the revoke had returned; "
                    f"the bound is {bound_ns / NS_PER_MS:.1f} ms",
                )
            )
