"""Whether two lists of times look alike, by ranks: how long the machine takes makes no difference."""

from collections.abc import Sequence
from math import sqrt


def how_often_longer(one: Sequence[float], two: Sequence[float]) -> float:
    """Say in what share of all pairs the first is the longer; ties count half. One half: they look alike.

    This is the statistic U of Mann and Whitney (1947) over the number of pairs.
    """
    longer = sum((a > b) + 0.5 * (a == b) for a in one for b in two)
    return longer / (len(one) * len(two))


def deviation(count: int) -> float:
    """Give the standard deviation of `how_often_longer` for two lists of this length that are alike."""
    return sqrt((2 * count + 1) / (12 * count * count))
