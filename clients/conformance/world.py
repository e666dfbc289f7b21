"""What cases happen in: a real Flowless, real sidecars, the sockets behind which there is none, and all faults."""

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import grpc

from clients.conformance.odd_sockets import OddSocket
from clients.conformance.scripted_sidecar import ScriptedSidecar
from tools.processes import TESTING, FlowlessProcess, ManagedProcess, SidecarProcess
from trustlayer.v1 import identity_pb2, session_pb2, validator_pb2
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub
from trustlayer.v1.validator_pb2_grpc import ValidatorServiceStub

MAX_STALENESS_SECONDS: Final = 1.0
CALL_SECONDS: Final = 10.0
_WAIT_SECONDS: Final = 30.0
"""So long a machine that is busy may take to have a lease again."""
FLOWLESS: Final[Mapping[str, str]] = {
    **TESTING,
    # So few that a case can use them up.
    "FLOWLESS_ATTEMPTS_FREE": "5",
    "FLOWLESS_ATTEMPTS_FAILED_PER_IP_PER_HOUR": "1000000",
    "FLOWLESS_BUSY_TIMEOUT_SECONDS": "0.3",
    "FLOWLESS_SESSION_MAX_PER_USER": "1000",
    "FLOWLESS_TRUST_TOKEN_PURPOSES": '["delivery"]',
}
RULES: Final = """
[[routes]]
name = "open"

[[routes]]
name = "strict"
match = ["GET /strict/**"]
mode = "strict"

[[routes]]
name = "admin"
match = ["* /admin/**"]
roles_all = ["admin"]

[[routes]]
name = "payments"
match = ["grpc shop.v1.Payments/Pay"]
max_authentication_age_seconds = 600

[[routes]]
name = "catalogue"
serve_beyond_lease_seconds = 15
"""
_DEFAULT_RELAY: Final = "narrow"
_COLUMNS: Final[Mapping[str, str]] = {
    "idle_for": "last_seen_us = last_seen_us - :us",
    "over_for": "expires_us = CAST(strftime('%s', 'now') AS INTEGER) * 1000000 - :us",
    "proven_ago": "authenticated_us = authenticated_us - :us",
}


class WorldError(Exception):
    """A case asks for what the world cannot do; the text says what."""


class World:
    """See the module; made by `running`. For one thread, but for what a case does while a call is under way."""

    def __init__(
        self,
        *,
        flowless: FlowlessProcess,
        sidecars: Mapping[str, SidecarProcess],
        scripted: ScriptedSidecar,
        odd: Mapping[str, OddSocket],
    ) -> None:
        self.scripted = scripted
        self._flowless = flowless
        self._sidecars = sidecars
        self._odd = odd
        self._paused: set[ManagedProcess] = set()
        self._lock: sqlite3.Connection | None = None
        self._database = Path(flowless.database_url.removeprefix("sqlite:///"))

    def socket(self, name: str) -> Path:
        """Find a socket by the name that cases use."""
        if name in self._sidecars:
            return self._sidecars[name].socket
        if name == "scripted":
            return self.scripted.socket
        if name in self._odd:
            return self._odd[name].path
        if name == "nobody":
            return self.scripted.socket.with_name("nobody.sock")
        raise WorldError(f"no such socket: {name}")

    def do(self, action: Mapping[str, Any]) -> None:
        """Do what a case says. Raises `WorldError`."""
        ((name, argument),) = action.items()
        doers: Mapping[str, Callable[[Any], None]] = {
            "sidecar": lambda what: self._process(self._sidecars["sidecar"], what),
            "flowless": lambda what: self._process(self._flowless, what),
            "database": self._change_database,
            "session_was": self._age_session,
            "revoke": self._revoke,
            "script": self.scripted.play,
            "wait_for": self._wait_for,
        }
        doers[name](argument)

    def mend(self) -> None:
        """Make everything as it was before the case: all run, and the sidecars hold their leases."""
        self.scripted.play({})
        self._unlock()
        for process in (self._flowless, *self._sidecars.values()):
            if process in self._paused:
                self._process(process, "resume")
            if not process.is_running:
                self._process(process, "start")
        for name in self._sidecars:
            self._wait_until(lambda status: status.lease_held, name)

    def _process(self, process: ManagedProcess, what: str) -> None:
        if what == "start":
            # At the same address, or nobody would find it.
            if isinstance(process, FlowlessProcess):
                process.environment["FLOWLESS_LISTEN"] = process.address
            process.start()
        elif what == "restart":
            process.stop()
            self._process(process, "start")
        elif what in ("stop", "kill"):
            process.stop() if what == "stop" else process.kill()
        elif what == "pause":
            process.signal(signal.SIGSTOP)
            self._paused.add(process)
        elif what == "resume":
            process.signal(signal.SIGCONT)
            self._paused.discard(process)
        else:
            raise WorldError(f"a process cannot be told to {what}")

    def _change_database(self, what: str) -> None:
        if what == "lock":
            self._lock = sqlite3.connect(self._database, isolation_level=None, check_same_thread=False)
            self._lock.execute("BEGIN IMMEDIATE")
        elif what == "unlock":
            self._unlock()
        else:
            raise WorldError(f"a database cannot be told to {what}")

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _age_session(self, how: Mapping[str, Any]) -> None:
        """Let time pass for one session: what is stored of it moves into the past, by so many seconds."""
        changed = set(how) - {"handle"}
        if not changed <= set(_COLUMNS):
            raise WorldError(f"a session cannot be {', '.join(sorted(changed - set(_COLUMNS)))}")
        with closing(sqlite3.connect(self._database, timeout=5.0)) as connection, connection:
            for name in changed:
                found = connection.execute(
                    f"UPDATE sessions SET {_COLUMNS[name]} WHERE handle = :handle",
                    {"us": int(how[name] * 1_000_000), "handle": how["handle"]},
                )
                if found.rowcount != 1:
                    raise WorldError("there is no session of this handle")

    def _revoke(self, handle: str) -> None:
        with grpc.insecure_channel(f"unix:{self.socket('sidecar')}") as channel:
            request = session_pb2.RevokeSessionRequest(handle=handle)
            SessionServiceStub(channel).RevokeSession(request, timeout=CALL_SECONDS)

    def _wait_for(self, what: str) -> None:
        wanted = {"lease": True, "no_lease": False}
        if what not in wanted:
            raise WorldError(f"nothing waits for {what}")
        self._wait_until(lambda status: status.lease_held is wanted[what])

    def _wait_until(self, holds: Callable[[validator_pb2.GetStatusResponse], bool], sidecar: str = "sidecar") -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        with grpc.insecure_channel(f"unix:{self.socket(sidecar)}") as channel:
            stub = ValidatorServiceStub(channel)
            while time.monotonic() < deadline:
                with suppress(grpc.RpcError):
                    if holds(stub.GetStatus(validator_pb2.GetStatusRequest(), timeout=CALL_SECONDS)):
                        return
                time.sleep(0.01)
        raise WorldError(f"the {sidecar} did not come to what was waited for in {_WAIT_SECONDS:g} s")

    def register(self, request: identity_pb2.RegisterUserRequest) -> identity_pb2.RegisterUserResponse:
        """Register a user by our own stub, for a case that is about something else."""
        with grpc.insecure_channel(f"unix:{self.socket('sidecar')}") as channel:
            return IdentityServiceStub(channel).RegisterUser(request, timeout=CALL_SECONDS)

    def log_in(self, request: session_pb2.LoginRequest) -> session_pb2.LoginResponse:
        """Log a user in by our own stub."""
        with grpc.insecure_channel(f"unix:{self.socket('sidecar')}") as channel:
            return SessionServiceStub(channel).Login(request, timeout=CALL_SECONDS)


@contextmanager
def running(directory: Path, *, code: Mapping[str, str] = MappingProxyType({})) -> Iterator[World]:
    """Start everything in the directory, whose path has to be short; end it with the `with` block.

    `code` are variables for the programs, where they are to be those of another version.
    """
    with ExitStack() as stack:
        flowless = FlowlessProcess(directory=directory, environment={**FLOWLESS, **code})
        flowless.migrate()
        flowless.create_signing_keys()
        secret = flowless.create_bridge("conformance").secret
        stack.enter_context(closing_process(flowless))
        rules = directory / "rules.toml"
        rules.write_text(RULES)
        sidecars = {
            name: SidecarProcess(
                directory=directory,
                name=name,
                upstream=flowless.address,
                secret=secret,
                max_staleness_seconds=MAX_STALENESS_SECONDS,
                environment={"BRIDGE_SIDECAR_CONFIG": str(rules), **code},
            )
            for name in ("sidecar", _DEFAULT_RELAY)
        }
        # What is relayed unless an operator says otherwise.
        del sidecars[_DEFAULT_RELAY].environment["BRIDGE_SIDECAR_RELAY"]
        for sidecar in sidecars.values():
            stack.enter_context(closing_process(sidecar))
        scripted = stack.enter_context(ScriptedSidecar(directory / "scripted.sock"))
        odd = {
            name: stack.enter_context(OddSocket(directory / f"{name}.sock", says_garbage=name == "garbage"))
            for name in ("garbage", "deaf")
        }
        world = World(flowless=flowless, sidecars=sidecars, scripted=scripted, odd=odd)
        world.mend()
        yield world


@contextmanager
def closing_process(process: ManagedProcess) -> Iterator[None]:
    """Start it, and end it also where a case has left it paused."""
    process.start()
    try:
        yield
    finally:
        if process.is_running:
            process.signal(signal.SIGCONT)
        process.stop()
