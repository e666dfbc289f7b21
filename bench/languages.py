"""Measure each language's client beside that language's usual alternatives: `make bench-languages`.

One real pair and one real Redis; the languages' own programs (`bench/languages.yaml`) take turns. Each validates a
session through the sidecar's socket, a hit; gets the same session as JSON from Redis; and verifies a JWT. A language
whose toolchain is not there is named as not run. Speed never fails the command; a program that fails does.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.protobuf import json_format

from bench import language_programs, report, sessions
from bench.alternatives import claims
from bench.language_programs import JWT, REDIS, VALIDATE, Measurement, Program, ProgramError, Task
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

CALL_SECONDS: Final = 10.0
TOLERATED_MISSES: Final = 0.01
"""Share of the calls. On a machine that stalls for longer than max_staleness, the lease lapses, rightly."""
ATTEMPTS: Final = 3
"""As often a language is measured until no lease lapsed meanwhile."""
REDIS_KEY: Final = "session:bench"
NOT_RUN: Final = "not run"
WHAT: Final = {
    VALIDATE: "validate through the sidecar (hit)",
    REDIS: "Redis GET and parsing JSON",
    JWT: "JWT verify (RS256)",
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    seconds: float
    warmup_seconds: float
    concurrency: tuple[int, ...] = (1, 8)


FULL: Final = Size(seconds=2.0, warmup_seconds=2.0)
QUICK: Final = Size(seconds=0.2, warmup_seconds=0.2)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one language: its measurements, or why it was not run."""

    program: Program
    measured: Sequence[Measurement] = ()
    missing: Sequence[str] = ()


class Rig:
    """The pair with one session that the sidecar has in memory, and Redis with the same."""

    def __init__(self, stack: ExitStack, directory: Path, size: Size) -> None:
        flowless = stack.enter_context(FlowlessProcess(directory=directory, environment=TESTING))
        bridge = flowless.create_bridge("bench")
        sidecar = SidecarProcess(directory=directory, upstream=flowless.address, secret=bridge.secret)
        self._sidecar = stack.enter_context(sidecar)
        channel = stack.enter_context(grpc.insecure_channel(sidecar.address))
        self._validator = validator_pb2_grpc.ValidatorServiceStub(channel)
        wait_for_lease(self._validator, log=sidecar.log)
        (login,) = asyncio.run(sessions.log_in(flowless.address, bridge, 1))
        asyncio.run(sessions.show_to_sidecar(sidecar.address, [login.session_id]))
        server = stack.enter_context(RedisServer())
        with server.client() as client:
            client.set(REDIS_KEY, json.dumps(json_format.MessageToDict(login.session)))
        token, public_key = signed_token(login)
        self.task = Task(
            socket=str(sidecar.socket),
            session_id=login.session_id,
            client_ip=sessions.CONTEXT.client_ip,
            redis_socket=str(server.socket),
            redis_key=REDIS_KEY,
            jwt=token,
            jwt_public_key_pem=public_key,
            seconds=size.seconds,
            warmup_seconds=size.warmup_seconds,
            concurrency=size.concurrency,
        )

    def measure(self, program: Program) -> list[Measurement]:
        """Let the program measure. Raises when it fails, or measured something else than hits."""
        for _ in range(ATTEMPTS):
            wait_for_lease(self._validator)
            before = self._status()
            measured = language_programs.run(program, self.task)
            after = self._status()
            hits, misses = after.hits - before.hits, after.misses - before.misses
            counted = sum(m.calls for m in measured if m.what == VALIDATE)
            if hits + misses < counted:
                raise ProgramError(f"{program.name} counts {counted:,} validations, the sidecar {hits + misses:,}")
            if misses <= hits * TOLERATED_MISSES:
                return measured
        raise ProgramError(f"{program.name}: {misses:,} misses beside {hits:,} hits: this is not the hit path")

    def _status(self) -> validator_pb2.GetStatusResponse:
        return self._validator.GetStatus(validator_pb2.GetStatusRequest(), timeout=CALL_SECONDS)


def signed_token(login: session_pb2.LoginResponse) -> tuple[str, str]:
    """Make the JWT that an app might use instead, valid for a day, and the public key that verifies it."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return jwt.encode(claims(login), private, algorithm="RS256"), public.decode()


def table(results: Sequence[Result]) -> str:
    """Lay out all languages; a ratio is to the same language's validate with as many calls in flight."""
    header = ("language", "what", "in flight", "p50 µs", "p99 µs", "calls/s", "p50 / validate", "calls/s / validate")
    rows: list[tuple[str, ...]] = []
    for result in results:
        if not result.measured:
            rows.append((result.program.name, NOT_RUN, *[""] * (len(header) - 2)))
        own = {m.concurrency: m for m in result.measured if m.what == VALIDATE}
        for measured in result.measured:
            figures = (measured.p50_us, measured.p99_us, measured.per_second)
            ratios = ("", "")
            if measured.what != VALIDATE and (validate := own.get(measured.concurrency)):
                ratios = (
                    report.figure(measured.p50_us / validate.p50_us),
                    report.figure(measured.per_second / validate.per_second),
                )
            rows.append(
                (
                    result.program.name,
                    WHAT[measured.what],
                    str(measured.concurrency),
                    *(report.figure(value) for value in figures),
                    *ratios,
                )
            )
    return report.table(header, rows)


def select(listed: Sequence[Program], only: Sequence[str]) -> list[Program]:
    """Take those of these names; all, where none is given. Raises `ProgramError` for a name that is not listed."""
    for name in only:
        if name not in (program.name for program in listed):
            raise ProgramError(f"no such language: {name}; there is {language_programs.names(listed)}")
    return [program for program in listed if not only or program.name in only]


def measure(listed: Sequence[Program], size: Size, *, make: bool) -> list[Result]:
    """Build what can be built, then run one after the other. Raises what a program fails with."""
    missing = {program.name: program.missing() for program in listed}
    ready = [program for program in listed if not missing[program.name]]
    if make:
        for program in ready:
            say(f"building {program.name}")
            language_programs.build(program)
    results = []
    with temporary_directory() as directory, ExitStack() as stack:
        rig = Rig(stack, directory, size) if ready else None
        for program in listed:
            if program in ready and rig is not None:
                say(f"measuring {program.name}")
                results.append(Result(program, measured=rig.measure(program)))
            else:
                results.append(Result(program, missing=missing[program.name]))
    return results


def written(results: Sequence[Result], size: Size, busy: str) -> str:
    """Write the report."""
    not_run = [f"{r.program.name} is {NOT_RUN}: {', '.join(r.missing)} not found" for r in results if not r.measured]
    return "\n\n".join(
        (
            "# Each language's client beside its usual alternatives",
            "The same session, on the same machine, one language after the other. `/ validate` is the ratio to the "
            "language's own validate with as many calls in flight. Neither alternative does what a validate does: "
            "Redis' answer says nothing of revocation, mode or context, and a JWT cannot be revoked at all.",
            report.parameters(
                {
                    "load average at start": busy,
                    "seconds per measurement": size.seconds,
                    "seconds of warm-up before each": size.warmup_seconds,
                    "validation mode": "STANDARD",
                }
            ),
            table(results),
            *(["\n".join(f"- {line}" for line in not_run)] if not_run else []),
        )
    )


def say(text: str) -> None:
    """Tell a waiting person what goes on, away from the report."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 1 if something broke, or `--require-all` is not met."""
    parser = argparse.ArgumentParser(prog="python -m bench.languages", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it runs, not how fast")
    parser.add_argument("--only", action="append", metavar="NAME", help="measure this language only; may be repeated")
    parser.add_argument("--require-all", action="store_true", help="fail if a language was not run")
    parser.add_argument("--no-build", action="store_true", help="take the programs as they are built")
    parser.add_argument("--list-file", type=Path, default=language_programs.LIST, help="other programs than ours")
    chosen = parser.parse_args(arguments)
    size = QUICK if chosen.quick else FULL
    busy = report.load_average()
    try:
        listed = language_programs.programs(chosen.list_file)
        results = measure(select(listed, chosen.only or []), size, make=not chosen.no_build)
    except (ProgramError, ProcessError, sessions.UnexpectedAnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"error: {error!r}", file=sys.stderr)
        return 1
    print(written(results, size, busy))
    not_run = [result.program for result in results if not result.measured]
    if chosen.require_all and not_run:
        print(f"error: not run: {language_programs.names(not_run)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    exit_on_sigterm()
    raise SystemExit(main())
