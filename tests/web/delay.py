"""Measure in two real browsers how long one that was logged out from the other can still click: `make web-check`.

In each round the second browser logs in and clicks on, again and again, while the first one logs it out. Compared are
moments that the browsers themselves note, on the one clock of this machine: when the answer to the revoke arrived,
and when each click of the second browser was sent. A click that was sent after that answer and is served all the same
breaks what the app says on its page, since it waits for all sidecars: that fails. How long things take is printed and
judges nothing.
"""

import argparse
import os
import statistics
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from tests.support.web import running_web
from tests.web.chromium import Chromium, chromium
from tools.processes import exit_on_sigterm, temporary_directory

EMAIL: Final = "ada@example.org"
MAX_STALENESS_SECONDS: Final = 2.0
_CLICK: Final = "nav a[href='/devices']"
_ROUND_SECONDS: Final = 60.0
# Milliseconds since the epoch; of a navigation with a redirect, its first answer arrived when the redirect ended.
_MOMENTS: Final = """
const entry = performance.getEntriesByType("navigation")[0], at = moment => performance.timeOrigin + moment;
return [entry.startTime, entry.redirectEnd, entry.requestStart, entry.responseStart].map(at)
  .concat(entry.responseStatus);
"""


@dataclass(frozen=True, slots=True)
class Round:
    """Milliseconds. `late`: clicks that were sent after the revoke's answer, and served."""

    revoke: float
    refused_after: float
    clicks: int
    late: int


def _click_on(browser: Chromium, begun: threading.Event) -> list[tuple[float, float, int]]:
    """Click until refused: when each click was sent and answered, and with which status."""
    clicks: list[tuple[float, float, int]] = []
    while not clicks or clicks[-1][2] == 200:
        browser.click(_CLICK)
        _, _, sent, answered, status = browser.run(_MOMENTS)
        clicks.append((sent, answered, int(status)))
        begun.set()
    return clicks


def play(first: Chromium, second: Chromium, pool: ThreadPoolExecutor) -> Round:
    """Log the second browser out while it clicks."""
    second.log_in(EMAIL)
    first.open("/devices")
    begun = threading.Event()
    clicking = pool.submit(_click_on, second, begun)
    if not begun.wait(_ROUND_SECONDS):
        raise TimeoutError("the second browser does not click")
    first.click(".devices form button")
    sent, answered, *_ = first.run(_MOMENTS)
    clicks = clicking.result(_ROUND_SECONDS)
    assert clicks[-1][2] == 401, clicks[-1]
    return Round(
        revoke=answered - sent,
        refused_after=clicks[-1][1] - answered,
        clicks=len(clicks),
        late=sum(click > answered and status == 200 for click, _, status in clicks),
    )


def _shown(values: Sequence[float]) -> str:
    p99 = statistics.quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]
    return f"p50 {statistics.median(values):8.1f} ms   p99 {p99:8.1f} ms"


def main(arguments: Sequence[str]) -> int:
    """Play the rounds and print; 1 if a click was served that should not have been."""
    parser = argparse.ArgumentParser(prog="python -m tests.web.delay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, metavar="N")
    chosen = parser.parse_args(arguments)
    exit_on_sigterm()
    with (
        temporary_directory() as directory,
        running_web(directory, max_staleness_seconds=MAX_STALENESS_SECONDS) as web,
        chromium(directory, "first", web.origin) as first,
        chromium(directory, "second", web.origin) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        version = first.driver.capabilities["browserVersion"]
        web.system.app.register(EMAIL)
        first.log_in(EMAIL)
        rounds = [play(first, second, pool) for _ in range(chosen.rounds)]
    late = sum(one.late for one in rounds)
    print(
        f"{len(rounds)} rounds, two Chromium {version}, one sidecar, max_staleness {MAX_STALENESS_SECONDS:g} s, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    )
    print(f"click on “Log out” → its answer                 {_shown([one.revoke for one in rounds])}")
    print(f"its answer → the other's first refusal arrives  {_shown([one.refused_after for one in rounds])}")
    print(f"clicks that were sent after the answer and served: {late} of {sum(one.clicks for one in rounds)}")
    return int(late > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
