"""How long until a revoke is refused everywhere? `python -m tests.faults.delay`: many sidecars on one machine.

Two figures for each revoke, both from when it returned, over all sidecars: the start of the last question that was
answered yes, which is what the guarantee speaks of, and the start of the first question that each had refused, which
is later by no more than the prober needs to ask again. The truth lies between the two; everything shares the
machine's cores with the prober.
"""

import argparse
import asyncio
import math
import random
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from tests.faults import document
from tests.faults.history import NS_PER_MS
from tests.faults.schedules import Shape
from tests.faults.world import Plan, World, running
from tests.support.flowless import bearer, fresh_email
from tests.support.system import BROWSER, PASSWORD
from tools.processes import exit_on_sigterm, temporary_directory
from trustlayer.v1 import identity_pb2, session_pb2, types_pb2, validator_pb2
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub
from trustlayer.v1.validator_pb2_grpc import ValidatorServiceStub

CALL_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 15.0
PAUSE_SECONDS: Final = 0.02
"""Before a sidecar that said yes is asked again: without it the prober takes the cores from what it measures."""


@dataclass(slots=True)
class Delays:
    """What was measured, in nanoseconds, an item for each revoke."""

    last_yes: list[int] = field(default_factory=list)
    first_refusal: list[int] = field(default_factory=list)
    round_trip: list[int] = field(default_factory=list)
    """How long the prober takes to ask all sidecars once, answered from their caches."""


class Prober:
    """One client of every sidecar and of Flowless, in one event loop."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._world = world
        self._metadata = bearer(world.secret)
        self._validators: list[Any] = []

    async def connect(self) -> None:
        """Open the channels."""
        for sidecar in self._world.sidecars:
            channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(sidecar.address))
            self._validators.append(ValidatorServiceStub(channel))
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(self._world.replicas[0].address))
        self._identity: Any = IdentityServiceStub(channel)
        self._sessions: Any = SessionServiceStub(channel)
        self._email = fresh_email()
        await self._call(
            self._identity.RegisterUser, identity_pb2.RegisterUserRequest(email=self._email, password=PASSWORD)
        )

    async def _call(self, method: Any, request: Any) -> Any:
        return await method(request, timeout=CALL_SECONDS, metadata=self._metadata)

    async def log_in(self) -> session_pb2.LoginResponse:
        """Make a session that every sidecar has in its cache."""
        request = session_pb2.LoginRequest(login=self._email, password=PASSWORD, context=BROWSER)
        login: session_pb2.LoginResponse = await self._call(self._sessions.Login, request)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(await self.ask_everywhere(login.session_id)):
            if time.monotonic() > deadline:
                raise TimeoutError("a new session is not active everywhere")
        return login

    async def ask_everywhere(self, session_id: str) -> list[bool]:
        """Ask every sidecar once, all at a time; which say yes."""
        return await asyncio.gather(*(self._is_active(validator, session_id) for validator in self._validators))

    async def revoke(self, handle: str) -> int:
        """Revoke past the sidecars; when it had returned."""
        await self._call(self._sessions.RevokeSession, session_pb2.RevokeSessionRequest(handle=handle))
        return time.monotonic_ns()

    async def _is_active(self, validator: Any, session_id: str) -> bool:
        request = validator_pb2.ValidateRequest(
            session_id=session_id, mode=types_pb2.VALIDATION_MODE_STRICT, context=BROWSER
        )
        try:
            answer: validator_pb2.ValidateResponse = await validator.Validate(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        return answer.HasField("session")

    async def until_refused(self, session_id: str, since_ns: int, delays: Delays) -> None:
        """Ask each sidecar again and again until it does not say yes any more."""
        pairs = await asyncio.gather(*(self._follow(validator, session_id) for validator in self._validators))
        delays.last_yes.append(max(0, *(last_yes - since_ns for last_yes, _ in pairs)))
        delays.first_refusal.append(max(refusal - since_ns for _, refusal in pairs))

    async def _follow(self, validator: Any, session_id: str) -> tuple[int, int]:
        last_yes = 0
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            started = time.monotonic_ns()
            if not await self._is_active(validator, session_id):
                return last_yes, started
            last_yes = started
            await asyncio.sleep(PAUSE_SECONDS)
        raise TimeoutError("a sidecar goes on saying yes")


async def measure(world: World, revokes: int, *, partitioned: bool) -> Delays:
    """Revoke so many sessions one after another; `partitioned`: each as soon as every link has been cut."""
    delays, draw = Delays(), random.Random(1)
    async with AsyncExitStack() as stack:
        prober = Prober(world, stack)
        await prober.connect()
        for _ in range(revokes):
            login = await prober.log_in()
            began = time.monotonic_ns()
            await prober.ask_everywhere(login.session_id)
            delays.round_trip.append(time.monotonic_ns() - began)
            await asyncio.sleep(draw.uniform(0, 0.5))  # at any time between two pings
            if partitioned:
                for link in world.sidecar_links:
                    link.cut()
            returned_ns = await prober.revoke(login.session.handle)
            await prober.until_refused(login.session_id, returned_ns, delays)
            if partitioned:
                for link in world.sidecar_links:
                    link.mend()
                world.wait_until_whole()
    return delays


def _at(values: Sequence[int], share: float) -> str:
    ranked = sorted(values)
    return f"{ranked[math.ceil(share * len(ranked)) - 1] / NS_PER_MS:.1f}"


def table(results: dict[str, Delays], parameters: str) -> str:
    """The figures, and what they were measured with."""
    lines = [
        parameters,
        "",
        "| sidecars are | revokes | last yes, ms: p50 | p99 | worst "
        "| first refusal by the last sidecar, ms: p50 | p99 | worst | prober asks all once, ms: p50 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, delays in results.items():
        figures = [_at(found, share) for found in (delays.last_yes, delays.first_refusal) for share in (0.5, 0.99, 1)]
        lines.append(f"| {name} | {len(delays.last_yes)} | {' | '.join(figures)} | {_at(delays.round_trip, 0.5)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.delay", description=__doc__, allow_abbrev=False)
    parser.add_argument("--sidecars", type=int, default=50)
    parser.add_argument("--revokes", type=int, default=100)
    parser.add_argument("--partitions", type=int, default=10)
    parser.add_argument("--max-staleness", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--write", action="store_true", help="put the table into docs/guarantee.md")
    arguments = parser.parse_args(argv)
    exit_on_sigterm()
    results: dict[str, Delays] = {}
    for name, partitioned in (("connected", False), ("cut off just before the revoke", True)):
        plan = Plan(
            shape=Shape(sidecars=arguments.sidecars, replicas=1),
            max_staleness_seconds=arguments.max_staleness,
            proxied=partitioned,  # a proxy of this process would slow down what is healthy
            launched=False,
            small=False,
        )
        count = arguments.partitions if partitioned else arguments.revokes
        with temporary_directory() as directory, running(plan, directory) as world:
            print(f"{arguments.sidecars} sidecars run; {count} revokes", file=sys.stderr, flush=True)
            results[name] = asyncio.run(measure(world, count, partitioned=partitioned))
    text = table(
        results,
        f"{arguments.sidecars} sidecars, 1 replica, PostgreSQL and Redis on one machine; "
        f"max_staleness {arguments.max_staleness * 1_000:.0f} ms; a sidecar that said yes is asked again after "
        f"{PAUSE_SECONDS * 1_000:.0f} ms.",
    )
    print(text)
    if arguments.write:
        document.write(document.GUARANTEE, "delay", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
