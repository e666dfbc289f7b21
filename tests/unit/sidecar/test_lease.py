"""The lease rule."""

from hypothesis import given
from hypothesis import strategies as st

from bridge_sidecar.lease import Lease

STALENESS = 2_000


def test_no_lease_is_held_before_the_first_pong() -> None:
    lease = Lease(max_staleness_ns=STALENESS)
    assert not lease.held(0)
    assert not lease.held(-(2**62))
    assert lease.remaining_ns(0) == 0


def test_a_lease_runs_from_the_sending_of_the_ping_to_max_staleness_and_not_a_moment_longer() -> None:
    lease = Lease(max_staleness_ns=STALENESS)
    lease.renew(10_000)
    assert lease.held(10_000 + STALENESS - 1)
    assert not lease.held(10_000 + STALENESS)
    assert lease.remaining_ns(11_500) == 500


def test_a_dropped_lease_can_be_won_again_by_an_older_ping() -> None:
    lease = Lease(max_staleness_ns=STALENESS)
    lease.renew(10_000)
    lease.drop()
    assert not lease.held(10_001)
    lease.renew(9_000)
    assert lease.remaining_ns(10_000) == 1_000


def test_a_lease_says_how_long_ago_it_ran_out_by_itself() -> None:
    lease = Lease(max_staleness_ns=STALENESS)
    assert lease.ran_out_ns(0) is None
    lease.renew(10_000)
    assert lease.ran_out_ns(10_000 + STALENESS - 1) is None
    assert lease.ran_out_ns(10_000 + STALENESS) == 0
    assert lease.ran_out_ns(10_000 + STALENESS + 7) == 7
    lease.drop()
    assert lease.ran_out_ns(10_000 + STALENESS + 7) is None


def test_a_leases_age_is_that_of_the_newest_answered_ping_held_or_not() -> None:
    lease = Lease(max_staleness_ns=STALENESS)
    assert lease.age_ns(10_000) is None
    lease.renew(10_000)
    lease.renew(9_000)
    assert lease.age_ns(10_007) == 7
    assert lease.age_ns(10_000 + 3 * STALENESS) == 3 * STALENESS
    lease.drop()
    assert lease.age_ns(10_007) is None


def test_a_final_lease_lasts_as_long_as_it_would_and_excuses_nothing_afterwards_until_it_is_renewed() -> None:
    lease = Lease(max_staleness_ns=STALENESS)
    lease.renew(10_000)
    lease.make_final()
    assert lease.held(10_000 + STALENESS - 1)
    assert lease.ran_out_ns(10_000 + STALENESS) is None
    lease.renew(11_000)
    assert lease.ran_out_ns(11_000 + STALENESS) == 0


@given(st.lists(st.integers(min_value=-(10**9), max_value=10**9), min_size=1))
def test_pongs_in_any_order_never_move_a_lease_backwards(sent_at: list[int]) -> None:
    lease = Lease(max_staleness_ns=STALENESS)
    for moment in sent_at:
        before = lease.remaining_ns(-(10**9))
        lease.renew(moment)
        assert lease.remaining_ns(-(10**9)) >= before
    assert lease.held(max(sent_at) + STALENESS - 1)
    assert not lease.held(max(sent_at) + STALENESS)
