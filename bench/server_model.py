"""Compare the two server models that grpcio has, for the sidecar: one event loop, or a pool of threads.

The question is docs/decisions/0001-aio-server.md's: does a hit wait behind misses, and what does each model cost?
Both models run as processes of their own in the same run, take turns in every round, and answer the same native
load generator. What is printed is the median over the rounds.

    python -m bench.server_model [--write docs/decisions/0001-server-model.measured.md]
"""

import argparse
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import hit_server, report
from bench.native_load import (
    Load,
    LoadError,
    NativeLoad,
    NativeLoadUnavailableError,
    build,
    grpc_method,
    write_requests,
)
from tools.processes import ManagedProcess, ProcessError, exit_on_sigterm, temporary_directory

METHOD: Final = "/trustlayer.v1.ValidatorService/Validate"
MODELS: Final = ("aio", "threads")
SESSIONS: Final = 10_000
DIFFERENT_IDS: Final = 64
WARMUP_CALLS: Final = 500
SETTLE_SECONDS: Final = 0.5
"""Between the start of the misses and the first hit, so that all of them are in flight."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Hits that are measured, beside misses that are not."""

    hits: int
    misses: int = 0
    upstream_ms: int = 50

    @property
    def title(self) -> str:
        hits = f"{self.hits} hit{'s' * (self.hits > 1)} in flight"
        return f"{hits}, {self.misses} misses of {self.upstream_ms} ms" if self.misses else f"{hits}, no misses"


SCENARIOS: Final = (
    Scenario(hits=1),
    Scenario(hits=16),
    Scenario(hits=1, misses=32),
    Scenario(hits=1, misses=256),
    Scenario(hits=1, misses=256, upstream_ms=250),
)
Measured = dict[tuple[Scenario, str], list[Load]]


class Rig:
    """One process for each model and upstream delay, and generators aimed at each."""

    def __init__(self, stack: ExitStack, directory: Path, binary: Path) -> None:
        hits = write_requests(directory, "hit", [hit_server.request_for(n) for n in range(DIFFERENT_IDS)])
        unknown = range(SESSIONS, SESSIONS + DIFFERENT_IDS)
        misses = write_requests(directory, "miss", [hit_server.request_for(n) for n in unknown])
        self.servers: dict[tuple[str, int], ManagedProcess] = {}
        self.loads: dict[tuple[str, int], tuple[NativeLoad, NativeLoad]] = {}
        for upstream_ms in sorted({scenario.upstream_ms for scenario in SCENARIOS}):
            for model in MODELS:
                socket = directory / f"{model}-{upstream_ms}.sock"
                options = ("--upstream-ms", str(upstream_ms), "--sessions", str(SESSIONS))
                server = ManagedProcess(
                    name=model,
                    module="bench.hit_server",
                    arguments=(model, str(socket), *options),
                    environment={},
                    log=directory / f"{model}-{upstream_ms}.log",
                )
                self.servers[model, upstream_ms] = stack.enter_context(server)
                self.loads[model, upstream_ms] = (
                    NativeLoad(binary=binary, target=grpc_method(socket=socket, method=METHOD), requests=hits),
                    NativeLoad(binary=binary, target=grpc_method(socket=socket, method=METHOD), requests=misses),
                )

    def measure(self, scenario: Scenario, model: str, seconds: float) -> Load:
        hits, misses = self.loads[model, scenario.upstream_ms]
        if not scenario.misses:
            return hits.run(concurrency=scenario.hits, seconds=seconds, warmup=WARMUP_CALLS)
        with misses.in_background(concurrency=scenario.misses, at_most_seconds=10 * seconds + 60):
            time.sleep(SETTLE_SECONDS)
            return hits.run(concurrency=scenario.hits, seconds=seconds)

    def rss(self) -> dict[str, float]:
        """Resident memory of each model's process that met every scenario with the default delay."""
        return {model: report.rss_mib(self.servers[model, Scenario(hits=1).upstream_ms].pid) for model in MODELS}


def measure(rig: Rig, rounds: int, seconds: float) -> Measured:
    measured: Measured = defaultdict(list)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for scenario in SCENARIOS:
            # Who goes first changes from round to round: neither always meets the warmer machine.
            for model in MODELS if number % 2 == 0 else MODELS[::-1]:
                measured[scenario, model].append(rig.measure(scenario, model, seconds))
    return measured


def rows(measured: Measured) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for scenario in SCENARIOS:
        for name, attribute in (
            ("p50 µs", "p50_us"),
            ("p99 µs", "p99_us"),
            ("calls/s", "rps"),
            ("calls/round", "requests"),
        ):
            aio, threads = (
                report.median([getattr(load, attribute) for load in measured[scenario, model]]) for model in MODELS
            )
            ratio = f"{report.figure(aio / threads)}" if attribute != "requests" else ""
            title = scenario.title if attribute == "p50_us" else ""
            lines.append((title, name, report.figure(aio), report.figure(threads), ratio))
    return lines


def document(
    measured: Measured, before: dict[str, float], after: dict[str, float], settings: dict[str, object]
) -> str:
    memory = [
        (when, *(report.figure(rss[model]) for model in MODELS), report.figure(rss["aio"] / rss["threads"]))
        for when, rss in (("before the load", before), ("after the load", after))
    ]
    return "\n\n".join(
        (
            "# Measured: one event loop or a pool of threads",
            "Written by `python -m bench.server_model --write FILE`; the reading is in "
            "[0001-aio-server.md](0001-aio-server.md).",
            "Hits are measured; misses are load beside them, from a second process. A time is what one hit took, "
            "as a native client saw it; each figure is the median over the rounds. Below 100 calls in a round, p99 "
            "is that round's slowest call.",
            report.parameters(settings),
            report.table(("scenario", "figure", "aio", "threads", "aio / threads"), rows(measured)),
            f"Resident memory in MiB, with {SESSIONS:,} sessions cached:",
            report.table(("when", "aio", "threads", "aio / threads"), memory),
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.server_model", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the Markdown to this file too")
    arguments = parser.parse_args()
    exit_on_sigterm()
    settings = {
        "load average at start": report.load_average(),
        "rounds": arguments.rounds,
        "seconds per measurement": arguments.seconds,
        "threads in the pool": hit_server.THREADS,
        "sessions in the cache": f"{SESSIONS:,}",
        "different ids asked for": DIFFERENT_IDS,
        "load": "closed loop, native (Go), one connection over a Unix socket",
    }
    try:
        binary = build()
        with temporary_directory() as directory, ExitStack() as stack:
            rig = Rig(stack, directory, binary)
            before = rig.rss()
            measured = measure(rig, arguments.rounds, arguments.seconds)
            text = document(measured, before, rig.rss(), settings)
    except NativeLoadUnavailableError as error:
        print(f"not measured: needs the native load generator, and {error}", file=sys.stderr)
        return 1
    except (LoadError, ProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    if arguments.write:
        arguments.write.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
