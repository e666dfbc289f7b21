"""The deployment as it is in life, of real processes, with a proxy between any two of them that talk.

PostgreSQL, Redis, Flowless replicas and sidecars. Things have the names that `schedules.touched` gives them. All
processes are started, and started again, by the thread that opens the world: they end with it.
"""

import base64
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from tests.faults.launch import Broken
from tests.faults.schedules import Shape, Subject, programs
from tests.support.proxy import Proxy
from tests.support.system import App
from tools.postgres_server import PostgresServer
from tools.processes import TESTING, FlowlessProcess, ManagedProcess, ProcessError, SidecarProcess, free_port
from tools.redis_server import RedisServer

DATABASE: Final = "flowless"
RESTART_SECONDS: Final = 15.0
HEAL_SECONDS: Final = 60.0
CHANNEL_OPTIONS: Final = (
    # A sidecar that is back is asked at once: gRPC's own patience is meant for networks.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
SMALL: Final = {"BRIDGE_SIDECAR_CACHE_MAX_ENTRIES": "20", "BRIDGE_SIDECAR_NEGATIVE_TTL_SECONDS": "0.2"}
"""A sidecar that remembers little, of yes and of no: what it answers is mostly what Flowless and Redis say."""
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to start. `proxied` is for measurements that a proxy would disturb."""

    shape: Shape = field(default_factory=Shape)
    max_staleness_seconds: float = 2.0
    broken: Mapping[str, Broken] = field(default_factory=dict)
    """Which process breaks which rule, by the process' name."""
    proxied: bool = True
    launched: bool = True
    """Whether wall clocks can be set."""
    small: bool = True
    """Whether the last sidecar is one that remembers little."""
    restart_seconds: float = RESTART_SECONDS
    """How long a program may take to start again before that counts as failed, and is tried again."""
    flowless_environment: Mapping[str, str] = field(default_factory=dict)
    """Settings of the replicas, beside what every world sets."""

    @property
    def upstream_timeout_seconds(self) -> float:
        """Shorter than max_staleness, so that Flowless may believe Redis at all."""
        return self.max_staleness_seconds / 2


def break_all(rule: Broken | None, shape: Shape) -> dict[str, Broken]:
    """The rule, in every process that has it."""
    if rule is None:
        return {}
    prefix = Subject.FLOWLESS if rule.program == "flowless" else Subject.SIDECAR
    return {name: rule for name in programs(shape) if name.startswith(prefix)}


class World:
    """What runs. Opened by `running`; faults are done to it by `faulting`."""

    def __init__(self, plan: Plan, directory: Path, stack: ExitStack) -> None:
        self.plan = plan
        self.shape = plan.shape
        self._directory = directory
        self._stack = stack
        self.links: dict[str, Proxy] = {}
        self.processes: dict[str, ManagedProcess] = {}
        self.postgres = stack.enter_context(PostgresServer())
        self.postgres.execute(f"CREATE DATABASE {DATABASE}")
        self.redis = stack.enter_context(RedisServer())
        self._key_file = directory / "redis.key"
        self._key_file.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
        for name in programs(plan.shape):
            self.set_wall_offset(name, 0)
        self.replicas = [self._replica(number) for number in range(self.shape.replicas)]
        self.replicas[0].migrate()
        for replica in self.replicas:
            replica.start()
        self.secret = self.replicas[0].create_bridge("sidecar").secret
        self.sidecars = [self._sidecar(number) for number in range(self.shape.sidecars)]
        for sidecar in self.sidecars:
            sidecar.start()

    def wait_until_whole(self) -> None:
        """Wait until every sidecar may answer from its cache. Raises `ProcessError`."""
        deadline = time.monotonic() + HEAL_SECONDS
        for sidecar in self.sidecars:
            with grpc.insecure_channel(sidecar.address, options=CHANNEL_OPTIONS) as channel:
                while not _leased(channel):
                    if time.monotonic() > deadline:
                        raise ProcessError(f"{sidecar.address} got no lease although nothing is broken")
                    time.sleep(0.02)

    @property
    def sidecar_links(self) -> list[Proxy]:
        """Every link of every sidecar."""
        return [link for name, link in self.links.items() if name.startswith(Subject.SIDECAR_FLOWLESS)]

    def _link(self, name: str, address: str) -> str:
        """Put a proxy before an address; where to dial instead."""
        if not self.plan.proxied:
            return address
        proxy = self._stack.enter_context(Proxy(address))
        self.links[name] = proxy
        return proxy.address

    def _python(self, name: str) -> Sequence[str]:
        if not self.plan.launched:
            return (sys.executable,)
        rule = self.plan.broken.get(name)
        breaks = ("--break", rule) if rule else ()
        return (
            *(sys.executable, "-m", "tests.faults.launch"),
            *("--wall-offset-file", str(self._offset_file(name)), *breaks),
        )

    def _offset_file(self, name: str) -> Path:
        return self._directory / f"{name}.offset"

    def set_wall_offset(self, name: str, seconds: float) -> None:
        """Set the wall clock of one program, in one step."""
        fresh = self._directory / f"{name}.offset.new"
        fresh.write_text(f"{seconds}")
        fresh.replace(self._offset_file(name))

    def _replica(self, number: int) -> FlowlessProcess:
        name = f"{Subject.FLOWLESS}-{number}"
        postgres = self._link(f"{Subject.FLOWLESS_POSTGRES}-{number}", f"127.0.0.1:{self.postgres.port}")
        redis = self._link(f"{Subject.FLOWLESS_REDIS}-{number}", f"127.0.0.1:{self.redis.port}")
        process = FlowlessProcess(
            directory=self._directory,
            name=name,
            listen=f"127.0.0.1:{free_port()}",  # one that stays the same when it starts again
            database_url=self.postgres.url(DATABASE, port=int(postgres.rpartition(":")[2])),
            environment={
                **TESTING,
                "FLOWLESS_REDIS_URL": f"redis://{redis}",
                "FLOWLESS_REDIS_KEY_FILE": str(self._key_file),
                "FLOWLESS_REDIS_TIMEOUT_SECONDS": "0.05",  # of a machine that has all of this on it
                # Nothing expires, whatever is done to wall clocks.
                "FLOWLESS_SESSION_IDLE_SECONDS": str(7 * _DAY),
                "FLOWLESS_SESSION_ABSOLUTE_SECONDS": str(30 * _DAY),
                **self.plan.flowless_environment,
            },
            python=self._python(name),
        )
        self._stack.callback(process.stop)
        self.processes[name] = process
        return process

    def _sidecar(self, number: int) -> SidecarProcess:
        """Each knows all replicas, and begins with another one."""
        name = f"{Subject.SIDECAR}-{number}"
        replicas = self.shape.replicas
        addresses = [
            self._link(f"{Subject.SIDECAR_FLOWLESS}-{number}-{replica}", self.replicas[replica].address.strip())
            for replica in range(replicas)
        ]
        first = number % replicas
        small = self.plan.small and number == self.shape.sidecars - 1
        process = SidecarProcess(
            directory=self._directory,
            name=name,
            upstream=",".join(addresses[first:] + addresses[:first]),
            secret=self.secret,
            max_staleness_seconds=self.plan.max_staleness_seconds,
            environment={
                "BRIDGE_SIDECAR_UPSTREAM_TIMEOUT_SECONDS": f"{self.plan.upstream_timeout_seconds:g}",
                **(SMALL if small else {}),
            },
            python=self._python(name),
        )
        self._stack.callback(process.stop)
        self.processes[name] = process
        return process

    def start(self, name: str) -> None:
        """Start a program that does not run; it may not be possible yet. Raises `ProcessError`."""
        if not self.processes[name].is_running:
            self.processes[name].start(timeout=self.plan.restart_seconds)


def _leased(channel: grpc.Channel) -> bool:
    try:
        return App(channel).status().lease_held
    except grpc.RpcError:
        return False


@contextmanager
def running(plan: Plan, directory: Path) -> Iterator[World]:
    """Start everything and wait for the leases; end everything."""
    with ExitStack() as stack:
        world = World(plan, directory, stack)
        world.wait_until_whole()
        yield world
