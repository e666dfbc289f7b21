"""A real Flowless with what a bridge has of it: stubs behind a credential, and the database beside it."""

import asyncio
import base64
import collections
import itertools
import os
import queue
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from flowless.adapters.paseto import PasetoTokens
from flowless.adapters.sql.bridges import SqlBridgeStore
from flowless.adapters.sql.database import Database
from flowless.adapters.sql.signing_keys import SqlSigningKeyStore
from flowless.domain.bridges import Scope
from flowless.grpc.server import PUBFLOW_SERVICE, SERVICES
from flowless.services.bridge_uses import NoUseRecorder
from flowless.services.bridges import Bridges
from flowless.services.signing_keys import SigningKeys
from tests.support.clock import FakeClock
from tests.support.rpc import detail, reason
from tests.support.stores import BY, counting_random, new_sqlite_file, sqlite_url
from tools.processes import TESTING, FlowlessProcess, write_signing_key
from trust_core.clock import SystemClock
from trustlayer.v1 import admin_pb2, bridge_pb2, identity_pb2, options_pb2, session_pb2, types_pb2
from trustlayer.v1.admin_pb2_grpc import AdminServiceStub
from trustlayer.v1.bridge_pb2_grpc import BridgeServiceStub
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub
from trustlayer.v1.trust_token_pb2_grpc import TrustTokenServiceStub

PASSWORD: Final = "correct horse battery staple"
BROWSER: Final = types_pb2.RequestContext(client_ip="203.0.113.7", device_fingerprint="device", user_agent="agent")
CALL_SECONDS: Final = 20.0

METHODS: Final[dict[str, MethodDescriptor]] = {
    f"/{service.full_name}/{method.name}": method
    for service in (*SERVICES, PUBFLOW_SERVICE)
    for method in service.methods
}
"""Every RPC of Flowless, by the name that is dialled; those of PubflowService need the setting `pubflow`."""

_counter = itertools.count(1)


def fresh_email() -> str:
    """An e-mail address that no other test of this process uses."""
    return f"user{next(_counter)}@example.org"


_Details = collections.namedtuple("_Details", "method timeout metadata credentials wait_for_ready compression")


class Credential(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    """Puts a bridge secret, and a deadline that no test outlives, on every call."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def _intercept(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._secret}")]
        timeout = CALL_SECONDS if details.timeout is None else details.timeout
        return continuation(_Details(details.method, timeout, metadata, None, None, None), request)

    intercept_unary_unary = _intercept  # type: ignore[assignment]  # generic in the stubs only
    intercept_unary_stream = _intercept  # type: ignore[assignment]
    intercept_stream_stream = _intercept  # type: ignore[assignment]


class Client:
    """Stubs of one bridge on one channel, and the calls that most tests make."""

    def __init__(self, channel: grpc.Channel, secret: str) -> None:
        self.secret = secret
        self.channel = channel
        with_credential = grpc.intercept_channel(channel, Credential(secret))
        self.identity = IdentityServiceStub(with_credential)
        self.sessions = SessionServiceStub(with_credential)
        self.bridge = BridgeServiceStub(with_credential)
        self.admin = AdminServiceStub(with_credential)
        self.tokens = TrustTokenServiceStub(with_credential)

    def register(self, email: str = "", **fields: Any) -> types_pb2.User:
        """Register a user whose password is `PASSWORD`."""
        request = identity_pb2.RegisterUserRequest(email=email or fresh_email(), password=PASSWORD, **fields)
        return self.identity.RegisterUser(request).user

    def log_in(self, user: types_pb2.User, *, device_name: str = "") -> session_pb2.LoginResponse:
        """Log the user in from `BROWSER`."""
        request = session_pb2.LoginRequest(
            login=user.email, password=PASSWORD, context=BROWSER, device_name=device_name
        )
        return self.sessions.Login(request)

    def new_session(self) -> session_pb2.LoginResponse:
        """A session of a new user."""
        return self.log_in(self.register())

    def validate(self, session_id: str, **fields: Any) -> bridge_pb2.ValidateSessionResponse:
        """Validate, without a context unless given."""
        return self.bridge.ValidateSession(bridge_pb2.ValidateSessionRequest(session_id=session_id, **fields))

    def denial(self, session_id: str, **fields: Any) -> str:
        """Name of the reason for which a session is denied; empty when it is active."""
        answer = self.validate(session_id, **fields)
        if answer.HasField("active"):
            return ""
        return types_pb2.DenialReason.Name(answer.denial.reason).removeprefix("DENIAL_REASON_")

    def revoke(self, handle: str) -> int:
        """Revoke one session."""
        return self.sessions.RevokeSession(session_pb2.RevokeSessionRequest(handle=handle)).revision

    def revoke_and_wait(self, handle: str) -> session_pb2.RevokeBarrier:
        """Revoke one session and wait for all sidecars."""
        request = session_pb2.RevokeSessionRequest(handle=handle, wait=session_pb2.REVOKE_WAIT_ALL_SIDECARS)
        return self.sessions.RevokeSession(request).barrier

    def create_bridge(self, *scopes: Scope) -> tuple[str, str]:
        """Create a bridge with these scopes; return its id and secret."""
        numbers = [options_pb2.Scope.ValueType(scope.value) for scope in scopes]
        request = admin_pb2.CreateBridgeRequest(name=f"bridge-{next(_counter)}", scopes=numbers)
        created = self.admin.CreateBridge(request)
        return created.bridge.id, created.secret

    def watch(self, **start: Any) -> "Watch":
        """Open a watch stream and start it."""
        watch = Watch(self.bridge)
        watch.send(start=bridge_pb2.WatchStart(**start))
        return watch

    def end(self) -> tuple[str, int]:
        """Name and end of the log, as a watcher learns them."""
        with self.watch() as watch:
            ready = watch.ready()
            return ready.log_id, ready.revision


class Watch:
    """One watch stream. A stream that says nothing more ends with its deadline, which no test outlives."""

    def __init__(self, stub: BridgeServiceStub) -> None:
        self._requests: queue.SimpleQueue[bridge_pb2.WatchRevocationsRequest | None] = queue.SimpleQueue()
        self._call: Any = stub.WatchRevocations(iter(self._requests.get, None))

    def send(self, **message: Any) -> None:
        """Send a start or a ping."""
        self._requests.put(bridge_pb2.WatchRevocationsRequest(**message))

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._requests.put(None)

    def receive(self) -> bridge_pb2.WatchRevocationsResponse:
        """The next message."""
        message: bridge_pb2.WatchRevocationsResponse = next(self._call)
        return message

    def ready(self) -> bridge_pb2.WatchReady:
        """The next message, which has to be the ready one."""
        message = self.receive()
        assert message.WhichOneof("message") == "ready"
        return message.ready

    def ping(self, nonce: int) -> tuple[list[bridge_pb2.Revocation], bridge_pb2.WatchPong]:
        """Ping; return the rows that came before the pong, and the pong."""
        self.send(ping=bridge_pb2.WatchPing(nonce=nonce))
        rows, last = self.rows_until("pong")
        assert last.pong.nonce == nonce
        return rows, last.pong

    def rows_until(self, kind: str) -> tuple[list[bridge_pb2.Revocation], bridge_pb2.WatchRevocationsResponse]:
        """Read rows until a message of this kind; return both."""
        rows: list[bridge_pb2.Revocation] = []
        while (message := self.receive()).WhichOneof("message") != kind:
            assert message.WhichOneof("message") == "revocations"
            assert 0 < len(message.revocations.revocations) <= 1_000
            rows += message.revocations.revocations
        return rows, message

    def rows(self, count: int) -> list[bridge_pb2.Revocation]:
        """Read exactly this many rows."""
        rows: list[bridge_pb2.Revocation] = []
        while len(rows) < count:
            message = self.receive()
            assert message.WhichOneof("message") == "revocations"
            rows += message.revocations.revocations
        assert len(rows) == count
        return rows

    def failure(self) -> grpc.RpcError:
        """What the stream ends with, after whatever it still says."""
        with pytest.raises(grpc.RpcError) as caught:
            collections.deque(self._call, maxlen=0)
        return caught.value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.half_close()
        self._call.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flowless:
    """A running Flowless, its database, and a client whose bridge holds every scope."""

    process: FlowlessProcess
    file: Path
    client: Client

    @property
    def log_text(self) -> str:
        """What it has logged."""
        return self.process.log.read_text()

    @contextmanager
    def sql(self) -> Iterator[sqlite3.Connection]:
        """The database, committed at the end."""
        with closing(sqlite3.connect(self.file, timeout=10)) as connection, connection:
            yield connection

    @contextmanager
    def locked_database(self) -> Iterator[None]:
        """Hold the write lock of the database."""
        with closing(sqlite3.connect(self.file, isolation_level=None, timeout=10)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")


def prepare(directory: Path) -> tuple[Path, str]:
    """Make a migrated database with one bridge that holds every scope; return the file and its secret."""

    async def work() -> tuple[Path, str]:
        file = await new_sqlite_file(directory)
        database = Database.open(sqlite_url(file))
        bridges = Bridges(
            store=SqlBridgeStore(database=database), uses=NoUseRecorder(), clock=FakeClock(), random=counting_random
        )
        created = await bridges.create("everything", frozenset(Scope), by=BY)
        await rotate_signing_keys(database, directory / "signing-key")
        await database.close()
        return file, created.secret

    return asyncio.run(work())


async def rotate_signing_keys(database: Database, key_file: Path) -> None:
    """Make signing keys, wrapped under the file that a Flowless in this directory is given."""
    write_signing_key(key_file)
    tokens = PasetoTokens(wrapping_keys=[base64.b64decode(key_file.read_text())], random=os.urandom)
    keys = SigningKeys(store=SqlSigningKeyStore(database=database), tokens=tokens, clock=SystemClock())
    await keys.rotate(overlap=timedelta(days=1), by=BY)


@contextmanager
def running_flowless(
    directory: Path, environment: Mapping[str, str] | None = None, /, **settings: str
) -> Iterator[Flowless]:
    """Start Flowless over a new database in the directory (see the fixture `run_dir`).

    `settings` are `FLOWLESS_…` variables in lower case without the prefix, `environment` others.
    """
    file, secret = prepare(directory)
    with served(directory, file, secret, environment, **settings) as flowless:
        yield flowless


@contextmanager
def served(
    directory: Path, file: Path, secret: str, environment: Mapping[str, str] | None = None, /, **settings: str
) -> Iterator[Flowless]:
    """Start one Flowless over a database that is there; its log goes into the directory."""
    chosen = {f"FLOWLESS_{name.upper()}": value for name, value in settings.items()} | dict(environment or {})
    process = FlowlessProcess(
        directory=directory, environment={**TESTING, "FLOWLESS_DATABASE_URL": sqlite_url(file), **chosen}
    )
    process.start()
    try:
        with grpc.insecure_channel(process.address) as channel:
            yield Flowless(process=process, file=file, client=Client(channel, secret))
    finally:
        process.stop()


def failure_of(call: Callable[[], object]) -> grpc.RpcError:
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def outcome(call: Callable[[], object]) -> tuple[str, str]:
    """Code and reason of a call, `OK` and nothing when it succeeds."""
    try:
        call()
    except grpc.RpcError as error:
        return code_of(error), reason(error)
    return "OK", ""


def code_of(error: Any) -> str:
    """Name of the code that a call ended with."""
    return str(error.code().name)


def violated_fields(error: grpc.RpcError) -> list[str]:
    """Names of the fields that an error complains of."""
    bad = detail(error, error_details_pb2.BadRequest)
    return [] if bad is None else [violation.field for violation in bad.field_violations]


def call_raw(
    channel: grpc.Channel, path: str, data: bytes = b"", metadata: Sequence[tuple[str, str]] = ()
) -> Callable[[], object]:
    """A call of any RPC with these bytes as its (first) message, read to its first answer."""
    method, dialled = METHODS[path], cast("Any", channel)
    options: dict[str, Any] = {"metadata": tuple(metadata), "timeout": CALL_SECONDS}
    if method.client_streaming:
        return lambda: next(dialled.stream_stream(path)(iter([data]), **options))
    if method.server_streaming:
        return lambda: next(dialled.unary_stream(path)(data, **options))
    return lambda: dialled.unary_unary(path)(data, **options)


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    """Metadata with a credential."""
    return (("authorization", f"Bearer {secret}"),)


def listed_services(address: str) -> set[str]:
    """Services that reflection lists; fails with UNIMPLEMENTED when it is off."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(address) as channel:
        stub: Any = ServerReflectionStub(channel)
        answer = next(stub.ServerReflectionInfo(iter([request]), timeout=CALL_SECONDS))
    return {service.name for service in answer.list_services_response.service}
