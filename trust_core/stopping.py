"""How a program is told to end: SIGTERM, SIGINT or SIGHUP once to drain it, a second one to end it at once.

SIGHUP means the same, since it is what a terminal that is closed sends; there is nothing to reload on demand, for
files that may change are looked at anyway. Under `nohup` it stays ignored.

The second one does not rely on a signal's default action, which the kernel does not carry out on the first process of
a container.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def end_process(number: int) -> None:
    """End without tidying up, with the exit code that a shell gives for the signal.

    Nothing is lost by it that a crash would not lose: storage is transactional, and a socket left behind is replaced.
    """
    os._exit(128 + number)


def end_as_first_process() -> None:
    """Let signals end a program that does not drain yet, though it is the first process of a container.

    The kernel ignores them there until somebody handles them, so a start or a migration that waits for a database
    would last until the grace period is over. Everywhere else they end it anyway. `when_told_to_end` takes over.
    """
    if os.getpid() != 1:
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: end_process(received))


def when_told_to_end(drain: Callable[[], None], *, at_once: Callable[[int], None] = end_process) -> None:
    """Call `drain` at the first signal and `at_once` at each later one. Call inside the running event loop."""
    told = False

    def on_signal(number: int) -> None:
        nonlocal told
        if told:
            at_once(number)
        told = True
        drain()

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
