"""The checker itself: it finds what is wrong, and only that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.history import Bounds, Event, Login, Outcome, Report, Revoke, Rule, Validation, check

BOUNDS = Bounds(max_staleness_ns=2_000, granted_beyond_ns=500)
LOGIN = Login(session="s", started_ns=0, ended_ns=10)
REVOKE = Revoke(sessions=frozenset({"s"}), started_ns=1_000, ended_ns=1_100, revision=7)


def validation(
    started_ns: int,
    outcome: Outcome = Outcome.ACTIVE,
    *,
    took_ns: int = 5,
    revision: int = 0,
    min_revision: int = 0,
    beyond_lease: bool = False,
) -> Validation:
    return Validation(
        session="s",
        sidecar="a",
        started_ns=started_ns,
        ended_ns=started_ns + took_ns,
        outcome=outcome,
        revision=revision,
        min_revision=min_revision,
        beyond_lease=beyond_lease,
    )


def rules(*events: Event) -> list[Rule]:
    return [violation.rule for violation in check((LOGIN, *events), BOUNDS).violations]


@pytest.mark.parametrize(
    ("started_ns", "broken"),
    [(1_100, []), (3_100, []), (3_101, [Rule.STALE_YES]), (9_999, [Rule.STALE_YES])],
)
def test_a_yes_is_stale_when_its_question_came_later_than_the_bound_after_the_revoke_returned(
    started_ns: int, broken: list[Rule]
) -> None:
    assert rules(REVOKE, validation(started_ns)) == broken


def test_a_yes_that_started_within_the_bound_may_end_whenever_it_likes() -> None:
    assert rules(REVOKE, validation(3_000, took_ns=1_000_000)) == []


def test_the_bound_is_counted_from_the_return_of_a_revoke_and_not_from_its_start() -> None:
    slow = Revoke(sessions=frozenset({"s"}), started_ns=1_000, ended_ns=900_000)
    assert rules(slow, validation(900_100)) == []


def test_after_a_reached_barrier_the_bound_is_zero() -> None:
    reached = Revoke(sessions=frozenset({"s"}), started_ns=1_000, ended_ns=1_100, barrier_reached=True)
    assert rules(reached, validation(1_100)) == []
    assert rules(reached, validation(1_101)) == [Rule.STALE_YES]


def test_an_answer_beyond_the_lease_has_what_the_operator_granted_on_top() -> None:
    assert rules(REVOKE, validation(3_600, beyond_lease=True)) == []
    assert rules(REVOKE, validation(3_601, beyond_lease=True)) == [Rule.STALE_YES]


def test_a_revoke_that_failed_promises_nothing_and_excuses_a_denial() -> None:
    failed = Revoke(sessions=frozenset({"s"}), started_ns=1_000, ended_ns=None)
    assert rules(failed, validation(9_999)) == []
    assert rules(failed, validation(1_001, Outcome.DENIED)) == []
    assert rules(failed, validation(900, Outcome.DENIED)) == [Rule.FALSE_NO]


def test_the_earliest_of_several_revokes_decides() -> None:
    again = Revoke(sessions=frozenset({"s", "t"}), started_ns=3_000, ended_ns=3_050)
    assert rules(REVOKE, again, validation(3_101)) == [Rule.STALE_YES]


def test_a_live_session_may_not_be_denied_but_one_being_revoked_or_being_made_may() -> None:
    assert rules(REVOKE, validation(500, Outcome.DENIED)) == [Rule.FALSE_NO]
    assert rules(REVOKE, validation(999, Outcome.DENIED)) == []  # ended after the revoke had begun
    assert rules(validation(9, Outcome.DENIED)) == []  # asked before the login had returned
    assert rules(validation(10, Outcome.DENIED)) == [Rule.FALSE_NO]


def test_who_demands_the_revision_of_a_revoke_sees_it_at_once() -> None:
    assert rules(REVOKE, validation(1_100, revision=7, min_revision=7)) == [Rule.READ_OWN_WRITE]
    assert rules(REVOKE, validation(1_100, revision=6, min_revision=6)) == []
    assert rules(validation(1_100, revision=6, min_revision=7)) == [Rule.READ_OWN_WRITE]


def test_unavailable_is_counted_and_never_a_violation() -> None:
    report = check((LOGIN, REVOKE, validation(500, Outcome.UNAVAILABLE, min_revision=9), validation(600)), BOUNDS)
    assert report.violations == []
    assert (report.of_live, report.of_live_answered, report.availability) == (2, 1, 0.5)


def test_the_worst_delay_is_that_of_the_latest_question_still_answered_yes() -> None:
    report = check((LOGIN, REVOKE, validation(1_500), validation(1_400), validation(4_000, Outcome.DENIED)), BOUNDS)
    assert (report.worst_delay_ns, report.revocations) == (400, 1)


def test_reports_add_up() -> None:
    total = Report()
    total.add(check((LOGIN, REVOKE, validation(1_500)), BOUNDS))
    total.add(check((LOGIN, REVOKE, validation(9_500)), BOUNDS))
    assert (total.revocations, total.validations, len(total.violations)) == (2, 2, 1)
    assert total.worst_delay_ns == 8_400


@given(
    st.lists(st.tuples(st.integers(11, 10_000), st.sampled_from(Outcome)), max_size=30),
    st.integers(20, 5_000),
    st.integers(0, 200),
)
def test_it_agrees_with_the_promise_written_out(
    asked: list[tuple[int, Outcome]], revoke_at: int, revoke_took: int
) -> None:
    revoke = Revoke(sessions=frozenset({"s"}), started_ns=revoke_at, ended_ns=revoke_at + revoke_took)
    wrong = sum(
        (outcome is Outcome.ACTIVE and at > revoke_at + revoke_took + BOUNDS.max_staleness_ns)
        or (outcome is Outcome.DENIED and at + 5 <= revoke_at)
        for at, outcome in asked
    )
    assert len(rules(revoke, *(validation(at, outcome) for at, outcome in asked))) == wrong
