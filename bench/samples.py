"""What is measured, and how one measurement of it is taken."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench import report
from bench.native_load import NativeLoad

DIFFERENT_IDS: Final = 64
"""Sessions that are asked for in turn."""
WARMUP_CALLS: Final = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """One subject in one round."""

    p50_us: float
    p99_us: float
    rps: float
    mean_us: float


Subject = Callable[[float], Sample]
"""Measures itself for that many seconds."""


def timed(call: Callable[[int], object]) -> Subject:
    """Measure a plain call in a loop; the call is given a number below DIFFERENT_IDS."""

    def run(seconds: float) -> Sample:
        for number in range(WARMUP_CALLS):
            call(number % DIFFERENT_IDS)
        times: list[int] = []
        begun = time.perf_counter_ns()
        ended = begun
        while ended - begun < seconds * 1e9:
            start = time.perf_counter_ns()
            call(len(times) % DIFFERENT_IDS)
            ended = time.perf_counter_ns()
            times.append(ended - start)
        return Sample(
            p50_us=report.median(times) / 1e3,
            p99_us=report.quantile(times, 0.99) / 1e3,
            rps=len(times) / (ended - begun) * 1e9,
            mean_us=sum(times) / len(times) / 1e3,
        )

    return run


def native(load: NativeLoad, concurrency: int) -> Subject:
    def run(seconds: float) -> Sample:
        measured = load.run(concurrency=concurrency, seconds=seconds, warmup=WARMUP_CALLS)
        mean = concurrency * measured.seconds / measured.requests * 1e6
        return Sample(p50_us=measured.p50_us, p99_us=measured.p99_us, rps=measured.rps, mean_us=mean)

    return run


def over_rounds(samples: Sequence[Sample]) -> Sample:
    """Take the median of each figure over the rounds."""
    return Sample(
        p50_us=report.median([s.p50_us for s in samples]),
        p99_us=report.median([s.p99_us for s in samples]),
        rps=report.median([s.rps for s in samples]),
        mean_us=report.median([s.mean_us for s in samples]),
    )
