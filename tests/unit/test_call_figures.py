"""What is counted of calls, with invented names and reasons, and how durations fall into buckets."""

import pytest

from tests.support.clock import FakeClock
from trust_core.call_figures import CallFigures, rpc_of
from trust_core.errors import Reason
from trust_core.histogram import VALIDATION_BOUNDS_NS, Histogram
from trust_core.metric_families import Catalogue

LOGIN = "/trustlayer.v1.SessionService/Login"


@pytest.mark.parametrize(
    ("method", "rpc"),
    [
        (LOGIN, "SessionService/Login"),
        ("/grpc.health.v1.Health/Check", "Health/Check"),
        ("/Unpackaged/Rpc", "Unpackaged/Rpc"),
        ("", "other"),
    ],
)
def test_an_rpc_is_named_by_service_and_method(method: str, rpc: str) -> None:
    assert rpc_of(method) == rpc


@pytest.mark.parametrize("timed", [(), (LOGIN,)])
def test_calls_are_counted_by_code_and_reason_and_those_under_way_as_well(timed: tuple[str, ...]) -> None:
    figures = CallFigures(clock=FakeClock(), timed=timed)
    calls = [figures.begin(LOGIN, None) for _ in range(3)]
    assert figures.in_flight == 3
    for call, (code, reason) in zip(
        calls, [("OK", ""), ("UNAUTHENTICATED", "LOGIN_REFUSED"), ("OK", "")], strict=True
    ):
        call.finish(code, reason)
    assert figures.in_flight == 0
    assert figures.ended == {("SessionService/Login", "OK"): 2, ("SessionService/Login", "UNAUTHENTICATED"): 1}
    assert {reason for reason, count in figures.errors.items() if count} == {"LOGIN_REFUSED"}


def test_a_reason_of_a_newer_flowless_counts_as_other() -> None:
    figures = CallFigures(clock=FakeClock())
    for number in range(3):
        figures.begin(LOGIN, None).finish("UNAVAILABLE", f"REASON_OF_TOMORROW_{number}")
    assert figures.errors["other"] == 3
    assert sum(figures.errors.values()) == 3


def test_every_reason_is_shown_before_it_was_ever_given_so_that_the_first_is_an_increase() -> None:
    figures = CallFigures(clock=FakeClock())
    assert figures.errors == dict.fromkeys((*(reason.value for reason in Reason), "other"), 0)


def test_only_calls_that_end_with_their_answer_are_timed() -> None:
    clock = FakeClock()
    figures = CallFigures(clock=clock, timed=(LOGIN,))
    timed, stream = figures.begin(LOGIN, None), figures.begin("/trustlayer.v1.BridgeService/WatchRevocations", None)
    clock.advance(0.03)
    timed.finish("OK", "")
    stream.finish("CANCELLED", "")
    assert set(figures.durations) == {"SessionService/Login"}
    assert figures.durations["SessionService/Login"].read().sum_ns == pytest.approx(30_000_000)


def test_a_duration_is_counted_in_the_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = Histogram((10, 20))
    for duration in (0, 10, 11, 20, 21, 10**12):
        histogram.record(duration)
    assert histogram.read() == ((2, 2, 2), sum((10, 11, 20, 21, 10**12)))


def test_a_histogram_is_shown_with_buckets_that_add_up_in_seconds() -> None:
    histogram = Histogram()
    for duration in (40_000, 900_000, 3_000_000_000):
        histogram.record(duration)
    metric = Catalogue("x_").histogram("seconds", "How long.").of_histogram(histogram)
    shown = {(sample.name, sample.labels.get("le", "")): sample.value for sample in metric.samples}
    assert shown["x_seconds_bucket", "5e-05"] == 1
    assert shown["x_seconds_bucket", "0.001"] == 2
    assert shown["x_seconds_bucket", "1"] == 2
    assert shown["x_seconds_bucket", "+Inf"] == shown["x_seconds_count", ""] == 3
    assert shown["x_seconds_sum", ""] == pytest.approx(3.00094)
    assert len(shown) == len(VALIDATION_BOUNDS_NS) + 3
