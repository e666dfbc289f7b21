"""Until when may a watcher answer from its cache, and how far has it come? Nobody is forgotten early."""

from hypothesis import given
from hypothesis import strategies as st

from flowless.services.watchers import Watcher, Watchers

STALENESS = 2_000
WAITED = 2_200
"""Its own clock may run a tenth slower than ours."""


def arrive(watchers: Watchers, watcher_id: str = "", *, applied: int = 0, staleness: int = STALENESS) -> Watcher:
    return watchers.arrive(
        bridge_id="bridge",
        instance="pod-1",
        watcher_id=watcher_id,
        staleness_ns=staleness,
        applied_revision=applied,
    )


def settled(watchers: Watchers, now_ns: int) -> int | None:
    return watchers.standing(now_ns).settled


def test_a_watcher_that_never_pinged_holds_no_lease_and_is_not_waited_for() -> None:
    watchers = Watchers()
    arrive(watchers)
    assert watchers.standing(0) == (None, 0, None)


def test_a_watcher_is_waited_for_until_its_last_ping_is_older_than_its_staleness() -> None:
    watchers = Watchers()
    watcher = arrive(watchers, applied=3)
    watchers.pinged(watcher, applied_revision=3, now_ns=1_000)
    assert watchers.standing(999 + WAITED) == (3, 0, 1_000 + WAITED)
    assert watchers.standing(1_000 + WAITED) == (None, 1, None)


def test_the_one_that_is_furthest_behind_decides() -> None:
    watchers = Watchers()
    for applied in (7, 4, 9):
        watchers.pinged(arrive(watchers), applied_revision=applied, now_ns=0)
    assert settled(watchers, 1) == 4
    assert watchers.count_applied(7, 1) == 2
    assert watchers.furthest_behind(10) == 6


def test_what_was_applied_never_goes_back() -> None:
    watchers = Watchers()
    watcher = arrive(watchers, applied=5)
    watchers.pinged(watcher, applied_revision=4, now_ns=0)
    assert settled(watchers, 1) == 5


def test_one_that_has_left_is_waited_for_as_long_as_its_lease_may_last() -> None:
    watchers = Watchers()
    watcher = arrive(watchers, applied=3)
    watchers.pinged(watcher, applied_revision=3, now_ns=1_000)
    watchers.leave(watcher, now_ns=1_500)
    assert watchers.standing(999 + WAITED) == (3, 0, 1_000 + WAITED)
    assert watchers.standing(1_000 + WAITED) == (None, 0, None)


def test_one_that_comes_back_brings_its_lease_along_and_is_one_watcher() -> None:
    watchers = Watchers()
    before = arrive(watchers, "w", applied=3)
    watchers.pinged(before, applied_revision=3, now_ns=1_000)
    watchers.leave(before, now_ns=1_500)
    after = arrive(watchers, "w", applied=3)
    assert watchers.standing(2_000) == (3, 0, 1_000 + WAITED), "it may be answering under the lease from before"
    watchers.applied(after, applied_revision=8)
    assert watchers.standing(2_000) == (8, 0, 1_000 + WAITED)
    assert watchers.reports(8, 2_000)[0] == 1


def test_one_that_comes_back_before_its_other_stream_is_seen_to_end_is_one_watcher() -> None:
    watchers = Watchers()
    before = arrive(watchers, "w", applied=3)
    watchers.pinged(before, applied_revision=3, now_ns=1_000)
    after = arrive(watchers, "w", applied=3)
    watchers.applied(after, applied_revision=8)
    watchers.leave(before, now_ns=1_100)
    assert watchers.standing(2_000) == (8, 0, 1_000 + WAITED)


def test_a_stream_whose_watcher_came_by_another_may_not_be_answered_and_its_lease_is_waited_for() -> None:
    """The start of a stream that was given up may arrive after that of the one which replaced it."""
    watchers = Watchers()
    live = arrive(watchers, "w", applied=3)
    assert watchers.pinged(live, applied_revision=3, now_ns=1_000)
    given_up = arrive(watchers, "w", applied=3)
    watchers.leave(given_up, now_ns=1_100)
    assert watchers.standing(1_200) == (3, 0, 1_000 + WAITED)
    assert not watchers.pinged(live, applied_revision=9, now_ns=1_300), "nobody would know of this lease"
    assert watchers.standing(1_400) == (3, 0, 1_000 + WAITED)


def test_what_was_applied_of_another_log_counts_for_nothing() -> None:
    watchers = Watchers()
    watcher = arrive(watchers, applied=50)
    watchers.pinged(watcher, applied_revision=50, now_ns=0)
    watchers.start_over()
    assert settled(watchers, 1) == 0
    watchers.pinged(watcher, applied_revision=51, now_ns=2)
    assert settled(watchers, 3) == 0, "this stream is still of the other log"
    watchers.pinged(arrive(watchers, applied=2), applied_revision=2, now_ns=4)
    assert watchers.count_applied(2, 5) == 1


def test_two_without_an_id_are_two() -> None:
    watchers = Watchers()
    before = arrive(watchers, applied=3)
    watchers.pinged(before, applied_revision=3, now_ns=1_000)
    watchers.leave(before, now_ns=1_500)
    watchers.pinged(arrive(watchers, applied=8), applied_revision=8, now_ns=1_600)
    assert settled(watchers, 2_000) == 3


def test_more_that_left_than_can_be_remembered_are_waited_for_all_the_same() -> None:
    watchers = Watchers(max_departed=1)
    for number in range(3):
        watcher = arrive(watchers, applied=9)
        watchers.pinged(watcher, applied_revision=9, now_ns=1_000 + number)
        watchers.leave(watcher, now_ns=1_100)
    assert watchers.standing(2_000).settled == 0, "which of them is behind is forgotten"
    assert watchers.longest_staleness_ns(2_000) == STALENESS
    assert watchers.standing(1_001 + WAITED).settled == 9
    assert watchers.standing(1_002 + WAITED) == (None, 0, None)


def test_listeners_hear_that_somebody_applied_more_or_left() -> None:
    heard: list[str] = []
    watchers = Watchers()
    watchers.when_changed(lambda: heard.append("changed"))
    watcher = arrive(watchers)
    watchers.pinged(watcher, applied_revision=0, now_ns=0)
    assert heard == []
    watchers.applied(watcher, applied_revision=1)
    watchers.leave(watcher, now_ns=0)
    assert heard == ["changed"] * 2


def test_the_report_shows_the_slowest_first_and_is_bounded() -> None:
    watchers = Watchers()
    for number in range(150):
        watchers.pinged(arrive(watchers), applied_revision=number, now_ns=0)
    count, reports = watchers.reports(150, 5_000)
    assert (count, len(reports)) == (150, 100)
    assert [report.applied_revision for report in reports[:3]] == [0, 1, 2]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arrive", "ping", "leave"]),
            st.integers(0, 3),  # which watcher id; 0 is none
            st.integers(0, 1_000),  # time that passes before
            st.integers(0, 5),  # revisions applied more
        ),
        max_size=40,
    ),
    st.integers(1, 3),
)
def test_nobody_who_may_hold_a_lease_is_ever_left_out(
    steps: list[tuple[str, int, int, int]], max_departed: int
) -> None:
    """Against a model that remembers everybody for ever: what is settled is never more than the slowest has."""
    watchers = Watchers(max_departed=max_departed)
    now_ns = 0
    streams: dict[int, Watcher] = {}
    leases: dict[object, tuple[int, int]] = {}  # who -> end of lease, applied
    for what, number, passes_ns, more in steps:
        now_ns += passes_ns
        if what == "arrive" and number not in streams:
            name = f"w{number}" if number else ""
            known = leases.get(name, (0, 0))[1] if name else 0
            streams[number] = arrive(watchers, name, applied=known)
        elif what == "ping" and number in streams:
            stream = streams[number]
            watchers.pinged(stream, applied_revision=stream.applied_revision + more, now_ns=now_ns)
            who = stream.watcher_id or stream
            leases[who] = (now_ns + STALENESS, stream.applied_revision)
        elif what == "leave" and number in streams:
            watchers.leave(streams.pop(number), now_ns=now_ns)
        held = [applied for end_ns, applied in leases.values() if now_ns < end_ns]
        found = settled(watchers, now_ns)
        assert not held or (found is not None and found <= min(held))
        waited = [end_ns for end_ns, _ in leases.values() if now_ns < end_ns + WAITED - STALENESS]
        assert waited or found is None, "and nobody is waited for in vain"
