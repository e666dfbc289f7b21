"""What a sidecar says of itself is taken as far as it can be true, and never grows."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from flowless.domain.replicas import MAX_COUNT, MAX_DENIAL_REASONS, SidecarFigures
from flowless.grpc import figures
from trustlayer.v1 import bridge_pb2, types_pb2

TRUE: dict[str, Any] = {
    "uptime": Duration(seconds=60, nanos=5_000),
    "lease_held": True,
    "lease_age": Duration(nanos=500_000_000),
    "cached_sessions": 7,
    "hits": 90,
    "misses": 10,
    "unavailable": 2,
    "answers_beyond_lease": 1,
    "denials": [bridge_pb2.DenialCount(reason=types_pb2.DENIAL_REASON_REVOKED, count=4)],
}


def _read(**changed: Any) -> SidecarFigures | None:
    return figures.from_message(bridge_pb2.SidecarFigures(**{**TRUE, **changed}))


def _denials(*counts: tuple[int, int]) -> list[bridge_pb2.DenialCount]:
    return [
        bridge_pb2.DenialCount(reason=types_pb2.DenialReason.ValueType(reason), count=count)
        for reason, count in counts
    ]


def test_figures_survive_the_way_in_and_out() -> None:
    read = _read()
    assert read is not None
    assert read.uptime == timedelta(seconds=60, microseconds=5)
    assert figures.to_message(read) == bridge_pb2.SidecarFigures(**TRUE)


def test_a_sidecar_without_a_lease_has_no_age_of_it() -> None:
    read = _read(lease_held=False, lease_age=None)
    assert read is not None
    assert read.lease_age is None
    assert not figures.to_message(read).HasField("lease_age")


@pytest.mark.parametrize(
    "lie",
    [
        {"uptime": Duration(seconds=-1)},
        {"uptime": Duration(seconds=2**62)},
        {"uptime": Duration(nanos=2_000_000_000)},
        {"lease_age": Duration(seconds=-5)},
        {"lease_age": Duration(seconds=2**62)},
        {"cached_sessions": -1},
        {"hits": -1},
        {"misses": -1},
        {"unavailable": -1},
        {"answers_beyond_lease": -1},
        {"denials": _denials((5, -1))},
        {"denials": _denials((-5, 1))},
    ],
    ids=str,
)
def test_what_cannot_be_true_is_no_figures_at_all(lie: dict[str, Any]) -> None:
    assert _read(**lie) is None


def test_reasons_without_end_are_cut_and_sums_stay_numbers_of_64_bits() -> None:
    many = _read(denials=_denials(*((reason, 1) for reason in range(10_000))))
    assert many is not None
    assert len(many.denials) == MAX_DENIAL_REASONS
    twice = _read(denials=_denials((5, MAX_COUNT), (5, MAX_COUNT)))
    assert twice is not None
    assert twice.denials == {5: MAX_COUNT}
    assert figures.to_message(twice).denials[0].count == MAX_COUNT
