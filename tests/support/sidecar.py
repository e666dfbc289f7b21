"""A sidecar in the test's event loop, on a real socket, upstream a `ScriptedFlowless`."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from bridge_sidecar.bootstrap import Sidecar
from bridge_sidecar.config import SidecarConfig
from tests.support.scripted_flowless import BROWSER, ScriptedFlowless
from trust_core.clock import Clock, SystemClock
from trust_core.identifiers import new_bridge_id, new_bridge_secret, new_session_id
from trustlayer.v1 import session_pb2_grpc, types_pb2, validator_pb2, validator_pb2_grpc

CONTEXT = types_pb2.RequestContext(
    client_ip=BROWSER.client_ip, device_fingerprint=BROWSER.device_fingerprint, user_agent=BROWSER.user_agent
)
STALENESS_SECONDS = 1.0
CALL_SECONDS = 20.0


def new_id() -> str:
    """A well-formed session id."""
    return new_session_id(os.urandom)


def new_secret() -> str:
    """A well-formed bridge secret."""
    return new_bridge_secret(new_bridge_id(os.urandom), os.urandom)


async def until(condition: Callable[[], bool], *, seconds: float = 15.0) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


class Running:
    """A sidecar, its upstream, and what an app has of them."""

    def __init__(
        self, *, sidecar: Sidecar, flowless: ScriptedFlowless, channel: grpc.aio.Channel, clock: Clock
    ) -> None:
        self.sidecar = sidecar
        self.clock = clock
        self.flowless = flowless
        self.channel = channel
        self.validator = validator_pb2_grpc.ValidatorServiceStub(channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)

    async def validate(self, session_id: str, **fields: Any) -> validator_pb2.ValidateResponse:
        """Validate for a request from `BROWSER`."""
        request = validator_pb2.ValidateRequest(**{"session_id": session_id, "context": CONTEXT, **fields})
        return await self.validator.Validate(request, timeout=CALL_SECONDS)

    async def status(self) -> validator_pb2.GetStatusResponse:
        """Ask the sidecar how it is."""
        return await self.validator.GetStatus(validator_pb2.GetStatusRequest(), timeout=CALL_SECONDS)

    def lease_held(self) -> bool:
        """Whether the cache may answer now."""
        return self.sidecar.lease.held(self.clock.elapsed_ns())

    async def leased(self) -> None:
        """Wait for the lease."""
        await until(self.lease_held)

    async def lease_lost(self) -> None:
        """Wait until the lease has run out."""
        await until(lambda: not self.lease_held())


@asynccontextmanager
async def running_sidecar(
    directory: Path, *, start_flowless: bool = True, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """Start both and wait for the lease; end both."""
    secret = new_secret()
    flowless = ScriptedFlowless(path=directory / "up.sock", secret=secret)
    values: dict[str, Any] = {
        "socket_path": str(directory / "s" / "bridge.sock"),
        "upstream": flowless.address,
        "bridge_secret": secret,
        "max_staleness_seconds": STALENESS_SECONDS,
        "upstream_timeout_seconds": STALENESS_SECONDS,
        "drain_seconds": 2.0,
        **settings,
    }
    if "bridge_secret_file" in settings:
        Path(settings["bridge_secret_file"]).write_text(secret)
        Path(settings["bridge_secret_file"]).chmod(0o600)
        values["bridge_secret"] = None
    config = SidecarConfig(**values)
    if start_flowless:
        await flowless.start()
    clock = clock or SystemClock()
    sidecar = Sidecar(config, clock=clock)
    stop, listening = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(sidecar.run(stop=stop, on_listening=listening.set))
    try:
        ready = asyncio.create_task(listening.wait())
        await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        async with grpc.aio.insecure_channel(f"unix:{config.socket_path}") as channel:
            running = Running(sidecar=sidecar, flowless=flowless, channel=channel, clock=clock)
            if start_flowless:
                await running.leased()
            yield running
    finally:
        stop.set()
        await task
        await flowless.stop()
