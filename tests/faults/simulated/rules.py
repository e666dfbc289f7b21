"""The rules that the guarantee stands on, each with a way to break it: a checker that finds nothing proves nothing.

Every entry replaces a few methods of the product while a simulation runs. Nothing in the product knows of it. The
simulation then has to show a violation within a bounded number of schedules, and what their faults were.

    python -m tests.faults.simulated.rules             what breaks when each rule is broken, and under which faults
    python -m tests.faults.simulated.rules --write     the same, into docs/guarantee.md
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

import structlog

from bridge_sidecar.lease import Lease
from bridge_sidecar.session_cache import SessionCache
from bridge_sidecar.validator import Validator
from flowless.grpc.watch import WatchStream
from flowless.services.recent_revocations import RecentRevocations
from flowless.services.revocation_tail import RevocationTail
from flowless.services.watchers import Standing, Watchers
from tests.faults.document import GUARANTEE, write
from tests.faults.history import Bounds, Report, check
from tests.faults.simulated.simulation import STALENESS_SECONDS, Schedule, World, ns, schedule, simulated
from tests.faults.simulated.storage import Redis

BOUNDS: Final = Bounds(max_staleness_ns=ns(STALENESS_SECONDS))


@dataclass(frozen=True, slots=True)
class Rule:
    """What it is, how it is broken, and which schedules alone are drawn where what that breaks is seldom seen."""

    name: str
    says: str
    patches: Sequence[tuple[type, str, Any]] = ()
    prepare: Callable[[World], None] | None = None
    only: Sequence[str] = ()
    replicas: int = 0

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Break the rule during the block."""
        with ExitStack() as stack:
            for owner, name, replacement in self.patches:
                stack.enter_context(mock.patch.object(owner, name, replacement))
            yield


def _keep_all(self: SessionCache, *, log_id: str, revision: int) -> None:
    self._log_id = log_id
    self._applied_revision = revision


def _only_count(self: SessionCache, revocation: Any) -> None:
    self._applied_revision = revocation.revision


async def _cannot_replay(*_: Any) -> bool:
    return False


async def _position(self: RevocationTail) -> Any:
    return self.position


def _renew_for_longer(self: Lease, sent_at_ns: int) -> None:
    self._expires_at_ns = max(self._expires_at_ns, sent_at_ns + 2 * self._max_staleness_ns)


def _unordered(world: World) -> None:
    world.storage.ordered = False


_MAY_JOIN: Final = Validator._may_join


def _join_any(self: Validator, flight: Any, key: bytes, min_revision: int) -> bool:
    sent, flight.sent = flight.sent, False
    try:
        return _MAY_JOIN(self, flight, key, min_revision)
    finally:
        flight.sent = sent


async def _bury_nothing(*_: Any, **__: Any) -> None:
    """No tombstone."""


_NO_CHECK: Final = (RecentRevocations, "reflects", lambda *_, **__: True)
_GUARD: Final = (
    (SessionCache, "touched_since", lambda *_: None),
    (SessionCache, "may_touch_since", lambda *_: False),
)

RULES: Final = (
    Rule("lease", "without a lease the cache may not say yes", [(Lease, "held", lambda *_: True)]),
    Rule(
        "lease from the sending",
        "a lease lasts max_staleness from when its ping was sent, and no longer",
        [(Lease, "renew", _renew_for_longer)],
    ),
    Rule("revision guard", "an answer that a later revocation touches is not kept and not given", _GUARD),
    Rule(
        "replay on reconnect",
        "who reconnects is told what it missed, or drops its cache",
        [(WatchStream, "_can_replay", _cannot_replay), (SessionCache, "reset", _keep_all)],
    ),
    Rule("rows take effect", "a revocation removes what it touches", [(SessionCache, "apply", _only_count)]),
    Rule(
        "a read after the ping",
        "a ping is answered only by a read of the log that began after it arrived",
        [(RevocationTail, "read_after_now", _position)],
        only=("replica cut off from storage", "storage slow", "replica paused"),
    ),
    Rule(
        "ordered log",
        "revisions become visible in their order",
        prepare=_unordered,
        only=("sidecar killed", "link slow", "redis slow"),
    ),
    Rule("check on Redis", "a replica believes no entry that a revocation which it has read touches", [_NO_CHECK]),
    Rule(
        "barrier waits for leases",
        "a revoke that waits does not return before every lease is over or has applied it",
        [(Watchers, "standing", lambda *_: Standing(None, 0, None))],
        only=("link deaf", "link cut", "sidecar deaf", "watch deaf"),
    ),
    Rule(
        "no sharing without a lease",
        "without a lease a request shares no question that was sent before it came",
        [(Validator, "_may_join", _join_any)],
        only=("watch deaf", "answers slow"),
        replicas=1,
    ),
)
"""Each of these alone keeps something true: broken, the checker has to find a violation."""

TOMBSTONE: Final = Rule(
    "tombstone", "a revocation leaves a tombstone that refuses late fills", [(Redis, "bury", _bury_nothing)]
)
"""Not needed for the guarantee while replicas check every entry; it keeps Redis from holding what is useless."""
CHECK_AND_TOMBSTONE: Final = Rule("check on Redis, tombstone", "both", [_NO_CHECK, (Redis, "bury", _bury_nothing)])


@dataclass(frozen=True, slots=True)
class Caught:
    """What a broken rule led to."""

    rule: Rule
    schedules: int
    violating: int
    first: Schedule | None
    kinds: Counter[str]


def run_schedules(
    plans: Sequence[Schedule], *, rule: Rule | None = None, until_violated: bool = False
) -> Iterator[tuple[Schedule, Report]]:
    """Run schedules, with a rule broken if one is given, and judge each."""
    with ExitStack() as stack:
        # What a broken rule makes the programs say is not news.
        before = structlog.get_config()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        stack.callback(structlog.configure, **before)
        if rule is not None:
            stack.enter_context(rule.broken())
        for plan in plans:
            report = check(simulated(plan, rule.prepare if rule else None), BOUNDS)
            yield plan, report
            if report.violations and until_violated:
                return


def hunt(rule: Rule, seeds: Sequence[int], *, until_violated: bool = False) -> Caught:
    """Look for what breaks with the rule."""
    plans = [schedule(seed, only=rule.only, replicas=rule.replicas) for seed in seeds]
    schedules = violating = 0
    first: Schedule | None = None
    kinds: Counter[str] = Counter()
    for plan, report in run_schedules(plans, rule=rule, until_violated=until_violated):
        schedules += 1
        if report.violations:
            violating += 1
            first = first or plan
            kinds.update({planned.kind for planned in plan.faults} or {"none"})
    return Caught(rule, schedules, violating, first, kinds)


def table(found: Sequence[Caught]) -> str:
    """Express what was found as a table in Markdown."""
    lines = [
        "| rule that was broken | schedules | with a violation | first seed | faults in those, most frequent first |",
        "| --- | --: | --: | --: | --- |",
    ]
    for caught in found:
        kinds = ", ".join(f"{kind} {count}" for kind, count in caught.kinds.most_common(4)) or "-"
        seed = "-" if caught.first is None else str(caught.first.seed)
        lines.append(f"| {caught.rule.name} | {caught.schedules:,} | {caught.violating:,} | {seed} | {kinds} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Break each rule in turn; exit with 1 when the checker missed one that it has to find."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.simulated.rules", description=main.__doc__)
    parser.add_argument("--schedules", type=int, default=1_000, help="for each rule; default: 1,000")
    parser.add_argument("--write", action="store_true", help="put the table into docs/guarantee.md")
    arguments = parser.parse_args(argv)
    found = []
    for rule in (*RULES, TOMBSTONE, CHECK_AND_TOMBSTONE):
        found.append(hunt(rule, range(arguments.schedules)))
        print(f"{rule.name}: {found[-1].violating} of {found[-1].schedules}", file=sys.stderr, flush=True)
    text = table(found)
    print(text)
    if arguments.write:
        write(GUARANTEE, "rules", text)
    missed = [caught.rule.name for caught in found if caught.rule in RULES and not caught.violating]
    if missed:
        print(f"not caught: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
