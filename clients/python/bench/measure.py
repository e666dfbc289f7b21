"""Measure validations, a Redis GET and a JWT check: `python -m clients.python.bench.measure`.

Reads one JSON object from standard input and writes one for each measurement, a line each, to standard output.
`bench/languages.py` says what is in them.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import jwt
import redis
from jwt.algorithms import RSAAlgorithm

from trustlayer import Client

_NS_PER_US: Final = 1_000
_NS_PER_SECOND: Final = 1_000_000_000
Call = Callable[[], object]


def main() -> int:
    """Measure what the input asks for."""
    wanted: dict[str, Any] = json.load(sys.stdin)
    for what, concurrencies, opened in (
        ("validate", wanted["concurrency"], _validate),
        ("redis_get", wanted["concurrency"], _redis_get),
        ("jwt_verify", [1], _jwt_verify),
    ):
        for concurrency in concurrencies:
            call = opened(wanted)
            _run(concurrency, wanted["warmup_seconds"], call)
            spent, seconds = _run(concurrency, wanted["seconds"], call)
            print(json.dumps({"what": what, "concurrency": concurrency, **_figures(spent, seconds)}), flush=True)
    return 0


def _validate(wanted: dict[str, Any]) -> Call:
    client = Client(wanted["socket"])
    session_id, client_ip = wanted["session_id"], wanted["client_ip"]

    # Raises unless the session is active.
    return lambda: client.validate(session_id, client_ip=client_ip)


def _redis_get(wanted: dict[str, Any]) -> Call:
    store = redis.Redis(unix_socket_path=wanted["redis_socket"])
    key = wanted["redis_key"]

    def call() -> None:
        if not json.loads(store.get(key)):  # type: ignore[arg-type]
            raise AssertionError("no session is stored")

    return call


def _jwt_verify(wanted: dict[str, Any]) -> Call:
    token = wanted["jwt"]
    key: Any = RSAAlgorithm(RSAAlgorithm.SHA256).prepare_key(wanted["jwt_public_key_pem"])
    return lambda: jwt.decode(token, key, algorithms=["RS256"], options={"require": ["exp"]})


def _run(concurrency: int, seconds: float, call: Call) -> tuple[list[int], float]:
    """Call from so many threads, for so many seconds; give what each call took in nanoseconds, and all in seconds."""
    together = threading.Barrier(concurrency + 1)

    def work() -> list[int]:
        spent = []
        together.wait()
        end = time.perf_counter_ns() + round(seconds * _NS_PER_SECOND)
        before = 0
        while before < end:
            before = time.perf_counter_ns()
            call()
            spent.append(time.perf_counter_ns() - before)
        return spent

    with ThreadPoolExecutor(concurrency) as threads:
        futures = [threads.submit(work) for _ in range(concurrency)]
        together.wait()
        began = time.perf_counter()
        spent = [duration for future in futures for duration in future.result()]
        return spent, time.perf_counter() - began


def _figures(spent: list[int], seconds: float) -> dict[str, float]:
    spent.sort()
    return {
        "calls": len(spent),
        "p50_us": round(spent[len(spent) // 2] / _NS_PER_US, 1),
        "p99_us": round(spent[min(len(spent) - 1, len(spent) * 99 // 100)] / _NS_PER_US, 1),
        "per_second": round(len(spent) / seconds, 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
