"""Both programs as real processes with what an app has of them: a channel to the sidecar's socket."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from tools.lease import LEASE_SECONDS, wait_for_lease
from tools.processes import TESTING, FlowlessProcess, SidecarProcess, temporary_directory
from trustlayer.v1 import identity_pb2, session_pb2, types_pb2, validator_pb2
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub
from trustlayer.v1.validator_pb2_grpc import ValidatorServiceStub

PASSWORD = "correct horse battery staple"
BROWSER = types_pb2.RequestContext(client_ip="203.0.113.7", device_fingerprint="device", user_agent="agent")
CALL_SECONDS = 10.0
BRIDGE = "sidecar"


class App:
    """An app: stubs on one socket, no secret."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.identity = IdentityServiceStub(channel)
        self.sessions = SessionServiceStub(channel)
        self.validator = ValidatorServiceStub(channel)

    def register(self, email: str, *, roles: tuple[str, ...] = ()) -> types_pb2.User:
        """Register a user whose password is `PASSWORD`."""
        request = identity_pb2.RegisterUserRequest(email=email, password=PASSWORD, name="Ada", roles=roles)
        return self.identity.RegisterUser(request, timeout=CALL_SECONDS).user

    def log_in(self, email: str) -> session_pb2.LoginResponse:
        """Log the user in from `BROWSER`."""
        request = session_pb2.LoginRequest(login=email, password=PASSWORD, context=BROWSER)
        return self.sessions.Login(request, timeout=CALL_SECONDS)

    def validate(self, session_id: str, *, min_revision: int = 0) -> validator_pb2.ValidateResponse:
        """Validate in STRICT mode for a request from `BROWSER`."""
        request = validator_pb2.ValidateRequest(
            session_id=session_id, mode=types_pb2.VALIDATION_MODE_STRICT, context=BROWSER, min_revision=min_revision
        )
        return self.validator.Validate(request, timeout=CALL_SECONDS)

    def status(self) -> validator_pb2.GetStatusResponse:
        """Ask the sidecar how it is."""
        return self.validator.GetStatus(validator_pb2.GetStatusRequest(), timeout=CALL_SECONDS)

    def wait_for_lease(self, *, timeout: float = LEASE_SECONDS) -> None:
        """Wait until the sidecar may answer from its cache."""
        wait_for_lease(self.validator, seconds=timeout)


@dataclass(frozen=True, slots=True)
class System:
    """Flowless, a sidecar beside an app, and the app."""

    flowless: FlowlessProcess
    sidecar: SidecarProcess
    app: App


@functools.cache
def _prepared_database() -> tuple[bytes, bytes, str]:
    """A migrated database with signing keys and one bridge, the file that opens the keys, and the bridge's secret.

    Made once by the real commands, then copied.
    """
    with temporary_directory() as directory:
        flowless = FlowlessProcess(directory=directory, environment=TESTING)
        flowless.migrate()
        flowless.create_signing_keys()
        secret = flowless.create_bridge(BRIDGE).secret
        return (directory / "flowless.db").read_bytes(), (directory / "signing-key").read_bytes(), secret


@contextmanager
def prepared_flowless(
    directory: Path, *, listen: str = "127.0.0.1:0", environment: Mapping[str, str] | None = None
) -> Iterator[tuple[FlowlessProcess, str]]:
    """Start Flowless over a database that has the bridge `BRIDGE`; gives the process and the bridge's secret."""
    content, signing_key, secret = _prepared_database()
    for file, prepared in ((directory / "flowless.db", content), (directory / "signing-key", signing_key)):
        if not file.exists():
            file.touch(mode=0o600)
            file.write_bytes(prepared)
    flowless = FlowlessProcess(directory=directory, listen=listen, environment={**TESTING, **(environment or {})})
    try:
        flowless.start()
        yield flowless, secret
    finally:
        flowless.stop()


@contextmanager
def running_system(
    directory: Path,
    *,
    max_staleness_seconds: float = 2.0,
    flowless_environment: Mapping[str, str] | None = None,
    sidecar_environment: Mapping[str, str] | None = None,
) -> Iterator[System]:
    """Start both programs in the directory (see the fixture `run_dir`) and wait for the first lease."""
    with prepared_flowless(directory, environment=flowless_environment) as (flowless, secret):
        sidecar = SidecarProcess(
            directory=directory,
            upstream=flowless.address,
            secret=secret,
            max_staleness_seconds=max_staleness_seconds,
            environment=sidecar_environment,
        )
        with sidecar, grpc.insecure_channel(sidecar.address) as channel:
            app = App(channel)
            app.wait_for_lease()
            yield System(flowless=flowless, sidecar=sidecar, app=app)
