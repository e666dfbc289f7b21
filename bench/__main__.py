"""Measure the sidecar's hit path beside its alternatives, and its memory: `make bench`.

Real processes: Flowless over SQLite, a sidecar in an environment of its own, redis-server. Everything is measured
in the same run and takes turns in every round, so that the ratios hold on a machine that is busy or slow.

Speed never fails the command: a goal that is missed is printed as missed. It ends with 1 if something broke.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import redis

from bench import alternatives, processes, report, sessions
from bench.in_process import InProcessHits
from bench.native_load import LoadError, NativeLoad, NativeLoadUnavailableError, build, grpc_method, write_requests
from bench.samples import DIFFERENT_IDS, Sample, Subject, native, over_rounds, timed
from tools.lease import wait_for_lease
from tools.processes import (
    TESTING,
    FlowlessProcess,
    ProcessError,
    SidecarProcess,
    exit_on_sigterm,
    temporary_directory,
)
from tools.redis_server import RedisServer
from trustlayer.v1 import session_pb2, validator_pb2, validator_pb2_grpc

METHOD: Final = "/trustlayer.v1.ValidatorService/Validate"
CALL_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 1.0
"""After the sidecar is live and before its memory is read."""
TOLERATED_MISSES: Final = 0.01
"""Share of the calls. On a machine that stalls for longer than max_staleness, the lease lapses, rightly."""

NATIVE_1: Final = "sidecar hit, native client, 1 in flight"
NATIVE_16: Final = "sidecar hit, native client, 16 in flight"
PYTHON_1: Final = "sidecar hit, Python client (sync)"
LOOKUP: Final = "LRU hit in the process: question to verdict"
IN_PROCESS: Final = "LRU hit in the process: bytes to bytes"
REDIS: Final = "redis-py GET + json.loads"
JWT: Final = "PyJWT ES256 verify"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    sessions: int
    rounds: int
    seconds: float


FULL: Final = Size(sessions=10_000, rounds=5, seconds=2.0)
QUICK: Final = Size(sessions=100, rounds=1, seconds=0.2)


@dataclass(frozen=True, slots=True)
class Memory:
    """The sidecar's resident memory in MiB."""

    idle: float
    full: float
    after_load: float


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and the limit that it must stay below."""

    what: str
    value: float | None
    limit: float
    unit: str
    inclusive: bool = False

    def row(self) -> tuple[str, str, str, str]:
        sign = "≤" if self.inclusive else "<"
        limit = f"{sign} {self.limit:g} {self.unit}"
        if self.value is None:
            return (self.what, "not measured", limit, "not measured")
        met = self.value <= self.limit if self.inclusive else self.value < self.limit
        return (self.what, f"{report.figure(self.value)} {self.unit}", limit, "met" if met else "MISSED")


class Rig:
    """Flowless, a sidecar that has seen the sessions, and what is measured against them."""

    def __init__(self, stack: ExitStack, directory: Path, size: Size) -> None:
        say("making an environment for the sidecar")
        python = processes.sidecar_only_python(directory)
        flowless = stack.enter_context(FlowlessProcess(directory=directory, environment=TESTING))
        bridge = flowless.create_bridge("bench")
        self._sidecar = stack.enter_context(
            SidecarProcess(python=python, directory=directory, upstream=flowless.address, secret=bridge.secret)
        )
        channel = stack.enter_context(grpc.insecure_channel(self._sidecar.address))
        self._validator = validator_pb2_grpc.ValidatorServiceStub(channel)
        wait_for_lease(self._validator, log=self._sidecar.log)
        time.sleep(IDLE_SECONDS)
        self._idle_rss = report.rss_mib(self._sidecar.pid)

        say(f"logging in {size.sessions:,} sessions")
        self.logins = asyncio.run(sessions.log_in(flowless.address, bridge, size.sessions))
        ids = [login.session_id for login in self.logins]
        asyncio.run(sessions.show_to_sidecar(self._sidecar.address, ids))
        cached = self.status().cached_sessions
        if cached != size.sessions:
            raise sessions.UnexpectedAnswerError(f"the sidecar caches {cached:,} of {size.sessions:,} sessions")
        self._full_rss = report.rss_mib(self._sidecar.pid)
        self.requests = [sessions.request_for(session_id) for session_id in ids[:DIFFERENT_IDS]]

    def status(self) -> validator_pb2.GetStatusResponse:
        return self._validator.GetStatus(validator_pb2.GetStatusRequest(), timeout=CALL_SECONDS)

    def memory(self) -> Memory:
        return Memory(idle=self._idle_rss, full=self._full_rss, after_load=report.rss_mib(self._sidecar.pid))

    def native_load(self, directory: Path, binary: Path) -> NativeLoad:
        files = write_requests(directory, "hit", [request.SerializeToString() for request in self.requests])
        return NativeLoad(
            binary=binary, target=grpc_method(socket=self._sidecar.socket, method=METHOD), requests=files
        )

    def validate(self, number: int) -> object:
        """Ask for one of the sessions as a Python app would."""
        response = self._validator.Validate(self.requests[number], timeout=CALL_SECONDS)
        if response.WhichOneof("result") != "session":
            raise sessions.UnexpectedAnswerError("a session that is active was denied")
        return response


def measure(subjects: Mapping[str, Subject], size: Size) -> dict[str, list[Sample]]:
    """Let every subject take its turn in every round, in changing order."""
    measured: dict[str, list[Sample]] = defaultdict(list)
    for number in range(size.rounds):
        say(f"round {number + 1} of {size.rounds}")
        order = list(subjects)
        for name in order if number % 2 == 0 else order[::-1]:
            measured[name].append(subjects[name](size.seconds))
    return measured


def speed_table(figures: Mapping[str, Sample]) -> str:
    redis, jwt = figures[REDIS], figures[JWT]
    rows = [
        (
            name,
            *(report.figure(value) for value in (sample.p50_us, sample.p99_us, sample.rps)),
            *(report.figure(sample.p50_us / other.p50_us) for other in (redis, jwt)),
            *(report.figure(sample.rps / other.rps) for other in (redis, jwt)),
        )
        for name, sample in figures.items()
    ]
    header = (
        "subject",
        "p50 µs",
        "p99 µs",
        "calls/s",
        "p50 / redis",
        "p50 / jwt",
        "calls/s / redis",
        "calls/s / jwt",
    )
    return report.table(header, rows)


def memory_table(memory: Memory, size: Size) -> str:
    rows = (
        ("idle", report.figure(memory.idle)),
        (f"with {size.sessions:,} sessions", report.figure(memory.full)),
        ("after the load", report.figure(memory.after_load)),
    )
    return report.table(("sidecar", "RSS MiB"), rows)


def goals(figures: Mapping[str, Sample], memory: Memory) -> str:
    hit = figures.get(NATIVE_1)
    listed = (
        Goal("sidecar's RSS, idle", memory.idle, 45, "MiB", inclusive=True),
        Goal(f"{NATIVE_1}: p50", hit.p50_us / 1e3 if hit else None, 0.5, "ms"),
        Goal(f"{NATIVE_1}: p99", hit.p99_us / 1e3 if hit else None, 1, "ms"),
        Goal(f"{IN_PROCESS}: mean", figures[IN_PROCESS].mean_us / 1e3, 0.02, "ms"),
    )
    return report.table(("goal", "measured", "limit", ""), [goal.row() for goal in listed])


def run(size: Size) -> str:
    """Measure everything and return the report."""
    native_note = "native (Go), closed loop, one connection"
    busy = report.load_average()
    with temporary_directory() as directory, ExitStack() as stack:
        rig = Rig(stack, directory, size)
        sampled: list[session_pb2.LoginResponse] = rig.logins[:DIFFERENT_IDS]
        server = stack.enter_context(RedisServer())
        client = stack.enter_context(redis.Redis(unix_socket_path=str(server.socket)))
        in_process = InProcessHits(sampled)
        subjects: dict[str, Subject] = {}
        try:
            load = rig.native_load(directory, build())
            subjects |= {NATIVE_1: native(load, 1), NATIVE_16: native(load, 16)}
        except NativeLoadUnavailableError as error:
            native_note = f"NATIVE NUMBERS WERE NOT MEASURED: {error}"
            say(native_note)
        subjects |= {
            PYTHON_1: timed(rig.validate),
            REDIS: timed(alternatives.redis_get_and_decode(client, rig.logins)),
            JWT: timed(alternatives.jwt_verify(sampled)),
            LOOKUP: timed(in_process.lookup),
            IN_PROCESS: timed(in_process.bytes_to_bytes),
        }
        before = rig.status()
        measured = measure(subjects, size)
        after = rig.status()
        hits, misses = after.hits - before.hits, after.misses - before.misses
        if misses > hits * TOLERATED_MISSES:
            raise sessions.UnexpectedAnswerError(f"{misses:,} misses beside {hits:,} hits: this is not the hit path")
        figures = {name: over_rounds(measured[name]) for name in subjects}
        memory = rig.memory()
    return "\n\n".join(
        (
            "# The hit path beside its alternatives",
            "Each figure is the median over the rounds; `/ redis` and `/ jwt` are ratios to those rows. With 16 in "
            "flight a call's time is mostly its turn in the queue, and calls/s is what to compare. The neighbour of "
            "redis-py is the Python client: both are what an app in Python would see.",
            report.parameters(
                {
                    "load average at start": busy,
                    "rounds": size.rounds,
                    "seconds per subject and round": size.seconds,
                    "sessions": f"{size.sessions:,}, of which {DIFFERENT_IDS} are asked for in turn",
                    "validation mode": "STANDARD",
                    "native load": native_note,
                    "what the sidecar counted": f"{hits:,} hits, {misses:,} misses",
                }
            ),
            speed_table(figures),
            memory_table(memory, size),
            goals(figures, memory),
        )
    )


def say(text: str) -> None:
    """Tell a waiting person what goes on, away from the report."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it runs, not how fast")
    arguments = parser.parse_args()
    exit_on_sigterm()
    try:
        print(run(QUICK if arguments.quick else FULL))
    except (LoadError, ProcessError, sessions.UnexpectedAnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"error: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
