"""How fast something grows, and how sure that is. Pure.

The slope is Theil and Sen's: the median of the slopes between all pairs of points, which a few jumps do not move. Its
bounds are Sen's, from how many pairs would have to agree. Readings that follow one another are alike (memory grows in
steps), which would make a bound from all of them far too sure of itself: so the readings are first cut into a few
blocks, and the blocks' medians are the points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final

BLOCKS: Final = 20
_ONE_SIDED_95: Final = 1.645
_SECONDS_PER_HOUR: Final = 3_600.0

Point = tuple[float, float]
"""Seconds, and the value then."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Growth per hour: the likely one, and bounds, each right with 95 %. `hours` is the time it was seen in."""

    per_hour: float
    lower: float
    upper: float
    hours: float

    @property
    def certain_growth(self) -> float:
        """By how much it has grown at least, in the time that was looked at; 0 if it may not have grown."""
        return max(0.0, self.lower * self.hours)


def trend(readings: Sequence[Point]) -> Trend:
    """Find the trend of readings in the order of time. Raises `ValueError` for fewer than four."""
    points = _blocks(readings)
    slopes = sorted(
        (b[1] - a[1]) / (b[0] - a[0]) * _SECONDS_PER_HOUR
        for number, a in enumerate(points)
        for b in points[number + 1 :]
    )
    count = len(points)
    doubt = _ONE_SIDED_95 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    lower = max(0, math.floor((len(slopes) - doubt) / 2))
    upper = min(len(slopes) - 1, math.ceil((len(slopes) + doubt) / 2))
    hours = (readings[-1][0] - readings[0][0]) / _SECONDS_PER_HOUR
    return Trend(per_hour=median(slopes), lower=slopes[lower], upper=slopes[upper], hours=hours)


def _blocks(readings: Sequence[Point]) -> list[Point]:
    if len(readings) < 4:
        raise ValueError("a trend needs four readings")
    count = min(BLOCKS, len(readings))
    edges = [round(number * len(readings) / count) for number in range(count + 1)]
    return [
        (median(at for at, _ in readings[a:b]), median(value for _, value in readings[a:b]))
        for a, b in pairwise(edges)
    ]
