"""What the messages of the watch mean, with time that a test moves."""

import pytest

from bridge_sidecar.lease import Lease
from bridge_sidecar.revocation_watch import Backoff
from bridge_sidecar.session_cache import CacheLimits, Revocation, SessionCache
from bridge_sidecar.watch_protocol import Ping, ProtocolViolationError, WatchFigures, WatchProtocol, WatchTiming

INTERVAL, SILENCE, OPENED = 500, 2_000, 10_000


class Stream:
    """A protocol with the cache and the lease behind it."""

    def __init__(self) -> None:
        self.cache = SessionCache(
            limits=CacheLimits(max_entries=10, max_bytes=10**5, negative_max_entries=10, negative_ttl_ns=10)
        )
        self.lease = Lease(max_staleness_ns=SILENCE)
        self.figures = WatchFigures()
        self.protocol = self.reopen(OPENED)

    def reopen(self, now: int) -> WatchProtocol:
        self.protocol = WatchProtocol(
            cache=self.cache,
            lease=self.lease,
            timing=WatchTiming(ping_interval_ns=INTERVAL, max_silence_ns=SILENCE),
            figures=self.figures,
            opened_at_ns=now,
        )
        return self.protocol


def _ready(revision: int = 0) -> Stream:
    stream = Stream()
    stream.protocol.on_ready(log_id="log", reset=True, revision=revision)
    return stream


def test_nothing_is_sent_before_the_server_is_ready() -> None:
    stream = Stream()
    assert stream.protocol.ping_due(OPENED + 10) is None
    assert stream.protocol.wait_ns(OPENED) == SILENCE


def test_a_server_that_is_never_ready_is_deaf_after_the_longest_silence() -> None:
    stream = Stream()
    assert not stream.protocol.deaf(OPENED + SILENCE - 1)
    assert stream.protocol.deaf(OPENED + SILENCE)


def test_pings_are_sent_at_once_and_then_at_every_interval_with_rising_nonces() -> None:
    stream = _ready(revision=3)
    assert stream.protocol.ping_due(OPENED) == Ping(1, 3)
    assert stream.protocol.ping_due(OPENED + 1) is None
    assert stream.protocol.wait_ns(OPENED + 1) == INTERVAL - 1
    assert stream.protocol.ping_due(OPENED + INTERVAL) == Ping(2, 3)


def test_the_lease_runs_from_when_the_ping_was_sent_not_from_when_the_pong_came() -> None:
    stream = _ready()
    stream.protocol.ping_due(OPENED)
    stream.protocol.on_pong(nonce=1, revision=0, now_ns=OPENED)
    assert stream.lease.held(OPENED + SILENCE - 1)
    assert not stream.lease.held(OPENED + SILENCE)


def test_a_pong_answers_for_the_pings_before_it() -> None:
    stream = _ready()
    stream.protocol.ping_due(OPENED)
    stream.protocol.ping_due(OPENED + INTERVAL)
    stream.protocol.on_pong(nonce=2, revision=0, now_ns=OPENED)
    assert stream.lease.remaining_ns(OPENED + INTERVAL) == SILENCE
    assert not stream.protocol.deaf(OPENED + SILENCE)
    with pytest.raises(ProtocolViolationError):
        stream.protocol.on_pong(nonce=1, revision=0, now_ns=OPENED)


def test_a_server_that_leaves_a_ping_unanswered_is_deaf_even_while_it_sends_rows() -> None:
    stream = _ready()
    stream.protocol.ping_due(OPENED)
    stream.protocol.on_batch([Revocation(revision=1)], now_ns=OPENED)
    assert not stream.protocol.deaf(OPENED + SILENCE - 1)
    assert stream.protocol.deaf(OPENED + SILENCE)


def test_a_pong_ahead_of_the_rows_it_vouches_for_breaks_the_protocol_and_renews_nothing() -> None:
    stream = _ready()
    stream.protocol.ping_due(OPENED)
    with pytest.raises(ProtocolViolationError):
        stream.protocol.on_pong(nonce=1, revision=1, now_ns=OPENED)
    assert not stream.lease.held(OPENED)


def test_a_pong_behind_what_was_applied_when_its_ping_was_sent_breaks_the_protocol() -> None:
    stream = _ready()
    stream.protocol.on_batch([Revocation(revision=1), Revocation(revision=2)], now_ns=OPENED)
    stream.protocol.ping_due(OPENED)
    with pytest.raises(ProtocolViolationError, match="behind"):
        stream.protocol.on_pong(nonce=1, revision=1, now_ns=OPENED)
    assert not stream.lease.held(OPENED)


def test_rows_that_come_between_a_ping_and_its_pong_do_not_spoil_the_pong() -> None:
    stream = _ready()
    stream.protocol.ping_due(OPENED)
    stream.protocol.on_batch([Revocation(revision=1), Revocation(revision=2)], now_ns=OPENED)
    stream.protocol.on_pong(nonce=1, revision=1, now_ns=OPENED)
    assert stream.lease.held(OPENED)


@pytest.mark.parametrize("nonce", [0, 2, -1])
def test_a_pong_without_its_ping_breaks_the_protocol(nonce: int) -> None:
    stream = _ready()
    stream.protocol.ping_due(OPENED)
    with pytest.raises(ProtocolViolationError):
        stream.protocol.on_pong(nonce=nonce, revision=0, now_ns=OPENED)


def test_a_pong_of_the_stream_before_is_worth_nothing() -> None:
    stream = _ready()
    stream.protocol.ping_due(OPENED)
    stream.reopen(OPENED + 100).on_ready(log_id="log", reset=False, revision=0)
    with pytest.raises(ProtocolViolationError):
        stream.protocol.on_pong(nonce=1, revision=0, now_ns=OPENED)


def test_rows_must_be_gapless_within_and_between_batches() -> None:
    stream = _ready()
    stream.protocol.on_batch([Revocation(revision=1), Revocation(revision=2)], now_ns=OPENED)
    stream.protocol.on_batch([Revocation(revision=3)], now_ns=OPENED)
    with pytest.raises(ProtocolViolationError, match="revision 5 after 3"):
        stream.protocol.on_batch([Revocation(revision=5)], now_ns=OPENED)


def test_rows_and_a_second_ready_break_the_protocol_out_of_turn() -> None:
    with pytest.raises(ProtocolViolationError):
        Stream().protocol.on_batch([Revocation(revision=1)], now_ns=OPENED)
    with pytest.raises(ProtocolViolationError):
        _ready().protocol.on_ready(log_id="log", reset=False, revision=0)
    with pytest.raises(ProtocolViolationError):
        Stream().protocol.on_ready(log_id="", reset=True, revision=0)


def test_a_replay_goes_on_where_the_cache_stopped_and_keeps_cache_and_lease() -> None:
    stream = _ready(revision=4)
    stream.protocol.ping_due(OPENED)
    stream.protocol.on_pong(nonce=1, revision=4, now_ns=OPENED)
    stream.reopen(OPENED + 100).on_ready(log_id="log", reset=False, revision=4)
    assert stream.lease.held(OPENED + 100)
    assert stream.cache.generation == 1
    with pytest.raises(ProtocolViolationError):
        stream.reopen(OPENED + 200).on_ready(log_id="log", reset=False, revision=3)


@pytest.mark.parametrize(("log_id", "reset"), [("log", True), ("other", False), ("other", True)])
def test_another_log_or_a_reset_drops_cache_and_lease(log_id: str, reset: bool) -> None:
    stream = _ready(revision=4)
    stream.protocol.ping_due(OPENED)
    stream.protocol.on_pong(nonce=1, revision=4, now_ns=OPENED)
    stream.reopen(OPENED + 100).on_ready(log_id=log_id, reset=reset, revision=9)
    assert not stream.lease.held(OPENED + 100)
    assert (stream.cache.log_id, stream.cache.applied_revision, stream.cache.generation) == (log_id, 9, 2)


def test_unanswered_pings_are_bounded() -> None:
    stream = _ready()
    sent = [stream.protocol.ping_due(OPENED + n * INTERVAL) for n in range(200)]
    assert sum(ping is not None for ping in sent) == 64


def test_the_round_trip_is_the_newest_answered_pings() -> None:
    stream = _ready()
    assert stream.figures == WatchFigures()
    stream.protocol.ping_due(OPENED)
    stream.protocol.ping_due(OPENED + INTERVAL)
    stream.protocol.on_pong(nonce=1, revision=0, now_ns=OPENED + INTERVAL + 10)
    assert stream.figures.round_trip_ns == INTERVAL + 10
    stream.protocol.on_pong(nonce=2, revision=0, now_ns=OPENED + INTERVAL + 20)
    assert stream.figures.round_trip_ns == 20


def test_a_row_took_at_most_as_long_as_has_passed_since_the_answered_ping_before_it_was_sent() -> None:
    stream = _ready()
    stream.protocol.ping_due(OPENED)
    stream.protocol.on_pong(nonce=1, revision=0, now_ns=OPENED + 10)
    stream.protocol.ping_due(OPENED + INTERVAL)  # not answered yet: its replica may have read before the row
    stream.protocol.on_batch([Revocation(revision=1)], now_ns=OPENED + INTERVAL + 5)
    assert stream.figures.last_revocation_within_ns == INTERVAL + 5
    stream.protocol.on_batch([], now_ns=OPENED + INTERVAL + 400)  # no row, nothing to tell
    assert stream.figures.last_revocation_within_ns == INTERVAL + 5
    stream.protocol.on_pong(nonce=2, revision=1, now_ns=OPENED + INTERVAL + 401)
    stream.protocol.on_batch([Revocation(revision=2)], now_ns=OPENED + INTERVAL + 402)
    assert stream.figures.last_revocation_within_ns == 402


def test_rows_before_the_first_pong_of_a_stream_cannot_be_timed() -> None:
    stream = _ready()
    stream.protocol.on_batch([Revocation(revision=1)], now_ns=OPENED)
    assert stream.figures == WatchFigures()
    stream.protocol.ping_due(OPENED)
    stream.protocol.on_pong(nonce=1, revision=1, now_ns=OPENED)
    stream.protocol.on_batch([Revocation(revision=2)], now_ns=OPENED + 3)
    assert stream.figures.last_revocation_within_ns == 3
    stream.reopen(OPENED + 100).on_ready(log_id="log", reset=False, revision=2)
    stream.protocol.on_batch([Revocation(revision=3)], now_ns=OPENED + 101)  # replayed
    assert stream.figures.last_revocation_within_ns is None


def test_backoff_doubles_up_to_its_cap_and_is_jittered_between_half_and_whole() -> None:
    backoff = Backoff(first_seconds=0.1, cap_seconds=2.0)
    assert [backoff.delay_seconds(n, 0.9999999) for n in range(7)] == pytest.approx(
        [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    )
    assert backoff.delay_seconds(0, 0.0) == pytest.approx(0.05)
    assert backoff.delay_seconds(10**6, 0.0) == pytest.approx(1.0)
