"""A program that plays good and bad starts and ends: `python -m tests.support.actor PART`."""

import signal
import sys
import time


def main(part: str) -> None:
    print(f"playing {part}", file=sys.stderr, flush=True)
    if part == "dies":
        raise SystemExit(3)
    if part == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if part == "wrong":
        print("hello", flush=True)
    elif part != "silent":
        print("actor listening on stage:1", flush=True)
    time.sleep(600)  # ended by a signal


if __name__ == "__main__":
    main(sys.argv[1])
