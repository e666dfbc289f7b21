"""Measure validations while logins saturate the hashing pool, beside validations without: part of `make bench`.

Real processes: Flowless with the default password profile, a sidecar, and a process that logs in as fast as it is
let. Quiet and stormy phases take turns with a control, so that all see the same machine: in the control the same
hashing workers hash as much as they can, for a process that is not Flowless. What it costs validations is the
machine's share, and what a storm costs beyond it is the logins'. Validations are asked by a Python client, whose own
time is in every figure: at the sidecar (hits), and at Flowless (each reads the database). Speed never fails the
command.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import grpc

from bench import report, sessions
from bench.samples import DIFFERENT_IDS, Sample, Subject, over_rounds, timed
from flowless.adapters.passwords import jobs
from flowless.adapters.passwords.pool import HashingPool, hashing_workers
from tools.processes import (
    LAUNCHER,
    ROOT,
    TESTING,
    BridgeCredential,
    FlowlessProcess,
    ProcessError,
    SidecarProcess,
    exit_on_sigterm,
    temporary_directory,
)
from trust_core.clock import SystemClock
from trustlayer.v1 import bridge_pb2, bridge_pb2_grpc, session_pb2, session_pb2_grpc, validator_pb2_grpc

CALL_SECONDS: Final = 30.0
AT_ONCE: Final = 200
"""Logins in flight: more than the pool and its queue hold, so that some are refused at once."""
RETRY_SECONDS: Final = 1.0
"""What a client that is refused waits, as RetryInfo asks it to."""
UNLIMITED: Final = {name: value for name, value in TESTING.items() if name.startswith("FLOWLESS_ATTEMPTS_")}
NAMES: Final = ("hit at the sidecar", "read at Flowless")
BESIDE: Final = ("quiet", "hashing elsewhere", "a storm of logins")
PROFILE: Final = "rfc9106-second"
"""The default, which Flowless is measured with."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    seconds: float


FULL: Final = Size(rounds=5, seconds=3.0)
QUICK: Final = Size(rounds=1, seconds=0.5)


async def storm(address: str, secret: str) -> None:
    """Log in until standard input ends; then print how the logins ended, as JSON."""
    ended: Counter[str] = Counter()
    over = asyncio.Event()
    credential = (("authorization", f"Bearer {secret}"),)

    async def log_in(stub: session_pb2_grpc.SessionServiceStub, number: int) -> None:
        request = session_pb2.LoginRequest(
            login=f"user{number % sessions.USERS}@example.com", password=sessions.PASSWORD, context=sessions.CONTEXT
        )
        while not over.is_set():
            try:
                call: Any = stub.Login(request, metadata=credential, timeout=CALL_SECONDS)
                await call
                ended["OK"] += 1
            except grpc.aio.AioRpcError as error:
                ended[error.code().name] += 1
                await asyncio.sleep(RETRY_SECONDS)

    async with grpc.aio.insecure_channel(address) as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        tasks = [asyncio.create_task(log_in(stub, number)) for number in range(AT_ONCE)]
        await asyncio.to_thread(sys.stdin.read)
        counted = dict(ended)
        over.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(counted))


async def hash_for_nobody() -> None:
    """Keep as many hashing workers busy as Flowless has, until standard input ends."""
    pool = HashingPool(
        profile=PROFILE,
        workers=(workers := hashing_workers(profile=PROFILE, servers=1)),
        max_waiting=workers,
        clock=SystemClock(),
    )

    async def keep_busy() -> None:
        while True:
            await pool.run(jobs.to_hash(b"nobody's"))

    tasks = [asyncio.create_task(keep_busy()) for _ in range(2 * workers)]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.close()
    print("{}")


class Storm:
    """Counts of the logins that were tried while it blew."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.seconds = 0.0

    @contextmanager
    def blowing(self, address: str, bridge: BridgeCredential) -> Iterator[None]:
        """Log in from a process of its own while the block runs. The secret goes through standard input."""
        begun = time.monotonic()
        with _beside("--storm", address, said=bridge.secret) as told:
            yield
            self.seconds += time.monotonic() - begun
        self.ended.update(told)


@contextmanager
def _beside(*arguments: str, said: str = "") -> Iterator[dict[str, int]]:
    """Run this module beside the block; what it printed at the end is in the dictionary then."""
    told: dict[str, int] = {}
    launcher = (sys.executable, str(LAUNCHER), str(os.getpid()))
    process = subprocess.Popen(
        [*launcher, sys.executable, "-m", "bench.login_storm", *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(said + "\n")
    process.stdin.flush()
    time.sleep(1.0)  # until it is at work
    try:
        yield told
    finally:
        out, _ = process.communicate(timeout=CALL_SECONDS)
    if process.returncode != 0:
        raise ProcessError(f"{arguments[0]} ended with {process.returncode}")
    told.update(json.loads(out))


def run(size: Size) -> str:
    """Start everything, measure, and write the report."""
    samples: dict[tuple[str, str], list[Sample]] = {(name, beside): [] for name in NAMES for beside in BESIDE}
    storms = Storm()
    with temporary_directory() as directory, ExitStack() as stack:
        # The real cost of hashing, and hardly a limit on attempts: the storm is to reach the pool.
        flowless = stack.enter_context(FlowlessProcess(directory=directory, environment=UNLIMITED))
        bridge = flowless.create_bridge("bench")
        sidecar = stack.enter_context(
            SidecarProcess(directory=directory, upstream=flowless.address, secret=bridge.secret)
        )
        logins = asyncio.run(sessions.log_in(flowless.address, bridge, DIFFERENT_IDS))
        asyncio.run(sessions.show_to_sidecar(sidecar.address, [login.session_id for login in logins]))
        to_sidecar = stack.enter_context(grpc.insecure_channel(sidecar.address))
        to_flowless = stack.enter_context(grpc.insecure_channel(flowless.address))
        subjects = _subjects(to_sidecar, to_flowless, bridge, logins)
        for number in range(size.rounds):
            print(f"bench: login storm, round {number + 1} of {size.rounds}", file=sys.stderr, flush=True)
            phases: tuple[AbstractContextManager[object], ...] = (
                nullcontext(),
                _beside("--hash-for-nobody"),
                storms.blowing(flowless.address, bridge),
            )
            for beside, phase in zip(BESIDE, phases, strict=True):
                with phase:
                    for name, subject in subjects.items():
                        samples[name, beside].append(subject(size.seconds))
    return _report(size, samples, storms)


def _subjects(
    to_sidecar: grpc.Channel,
    to_flowless: grpc.Channel,
    bridge: BridgeCredential,
    logins: Sequence[session_pb2.LoginResponse],
) -> dict[str, Subject]:
    validator = validator_pb2_grpc.ValidatorServiceStub(to_sidecar)
    flowless = bridge_pb2_grpc.BridgeServiceStub(to_flowless)
    credential = (("authorization", f"Bearer {bridge.secret}"),)
    hits = [sessions.request_for(login.session_id) for login in logins]
    reads = [bridge_pb2.ValidateSessionRequest(session_id=login.session_id) for login in logins]
    calls = (
        lambda number: validator.Validate(hits[number], timeout=CALL_SECONDS),
        lambda number: flowless.ValidateSession(reads[number], metadata=credential, timeout=CALL_SECONDS),
    )
    return {name: timed(call) for name, call in zip(NAMES, calls, strict=True)}


def _report(size: Size, samples: dict[tuple[str, str], list[Sample]], storms: Storm) -> str:
    rows = []
    for name in NAMES:
        quiet = over_rounds(samples[name, BESIDE[0]])
        for beside in BESIDE:
            sample = over_rounds(samples[name, beside])
            rows.append(
                [
                    f"{name}, {beside}",
                    *(report.figure(value / 1e3) for value in (sample.p50_us, sample.p99_us)),
                    report.figure(sample.p50_us / quiet.p50_us),
                    report.figure(sample.p99_us / quiet.p99_us),
                ]
            )
    tried = sum(storms.ended.values())
    logins = ", ".join(f"{code} {count:,}" for code, count in sorted(storms.ended.items()))
    return "\n\n".join(
        (
            "## Validations while logins saturate the hashing pool",
            report.parameters(
                {
                    "logins in flight": AT_ONCE,
                    "a login that is refused is repeated after": f"{RETRY_SECONDS:g} s",
                    "rounds": size.rounds,
                    "seconds per figure and round": size.seconds,
                    "client": "Python, one call at a time, on the same cores; its own time is in every figure",
                }
            ),
            report.table(["milliseconds", "p50", "p99", "p50 to quiet", "p99 to quiet"], rows),
            f"Logins in {storms.seconds:.0f} s of storm: {tried:,} ({logins}).",
        )
    )


def main() -> int:
    """Measure, or be the storm."""
    parser = argparse.ArgumentParser(prog="python -m bench.login_storm", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it runs, not how fast")
    parser.add_argument("--storm", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--hash-for-nobody", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.storm:
        asyncio.run(storm(arguments.storm, sys.stdin.readline().strip()))
        return 0
    if arguments.hash_for_nobody:
        asyncio.run(hash_for_nobody())
        return 0
    exit_on_sigterm()
    try:
        print(run(QUICK if arguments.quick else FULL))
    except (ProcessError, sessions.UnexpectedAnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
