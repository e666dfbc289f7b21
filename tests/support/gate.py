"""Flowless, a sidecar with rules, and an app: what stands behind a proxy in the tests of the gate."""

import itertools
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.support.echo_app import EchoApp
from tests.support.flowless import Client
from tests.support.http_client import Headers
from tests.support.system import BROWSER, CALL_SECONDS, PASSWORD, App, prepared_flowless
from tools.processes import FlowlessProcess, SidecarProcess
from trustlayer.v1 import session_pb2, types_pb2

RULES = """
[[routes]]
name = "public"
match = ["GET /public/**", "POST /public/**"]
session = "none"

[[routes]]
name = "start"
match = ["GET /", "GET /start/**"]
session = "optional"

[[routes]]
name = "admin"
match = ["* /admin/**"]
roles_any = ["admin"]

[[routes]]
name = "transfer"
match = ["POST /transfer"]
max_authentication_age_seconds = 0.001

[[routes]]
name = "devices"
match = ["GET /devices"]
mode = "advanced"

[[routes]]
name = "keys"
match = ["GET /keys"]
mode = "strict"

[[routes]]
name = "vault"
match = ["GET /vault"]
on_mismatch = "revoke"

[[routes]]
name = "orders"
match = ["grpc shop.v1.Orders/Cancel"]

[[routes]]
name = "everything"
match = ["GET /app/**", "POST /app/**", "OPTIONS /app/**"]
"""
FROM_BROWSER: Headers = (
    ("x-forwarded-for", BROWSER.client_ip),
    ("user-agent", BROWSER.user_agent),
    ("x-device-fingerprint", BROWSER.device_fingerprint),
)
PROXY = "127.0.0.9"
"""Whoever connects from this address is a trusted proxy. Not 127.0.0.1, for which Envoy writes the node's address."""
GATE = {
    "BRIDGE_SIDECAR_TRUSTED_PROXIES": PROXY,
    "BRIDGE_SIDECAR_IDENTITY_HEADERS": "x-user-id,x-session-handle,x-user-roles,x-user-email",
}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who has logged in."""

    user: types_pb2.User
    session_id: str
    handle: str

    @property
    def cookie(self) -> tuple[str, str]:
        """What their browser sends."""
        return ("cookie", f"theme=dark; session_id={self.session_id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """An app, and the programs that guard it. `admin` speaks to Flowless as the sidecar's bridge."""

    flowless: FlowlessProcess
    sidecar: SidecarProcess
    app: EchoApp
    admin: Client
    rules: Path
    database: Path

    def log_in(
        self, *, roles: tuple[str, ...] = (), context: types_pb2.RequestContext = BROWSER, name: str = ""
    ) -> Person:
        """Register somebody and log them in."""
        user = self.admin.register(f"gate{next(_numbers)}@example.org", roles=roles, name=name)
        request = session_pb2.LoginRequest(login=user.email, password=PASSWORD, context=context)
        login = self.admin.sessions.Login(request, timeout=CALL_SECONDS)
        return Person(user=user, session_id=login.session_id, handle=login.session.handle)

    def revoke(self, person: Person) -> None:
        """Revoke the session, and wait until no sidecar says yes any more."""
        assert self.admin.revoke_and_wait(person.handle).reached

    def set_in_database(self, person: Person, column: str, value: int) -> None:
        """Change a session that no sidecar has seen yet."""
        with closing(sqlite3.connect(self.database, timeout=10)) as connection, connection:
            connection.execute(f"UPDATE sessions SET {column} = ? WHERE handle = ?", (value, person.handle))

    def wait_for_lease(self) -> None:
        """Wait until the sidecar answers from its memory."""
        with grpc.insecure_channel(self.sidecar.address) as channel:
            App(channel).wait_for_lease()


@contextmanager
def guarded_app(directory: Path, environment: Mapping[str, str]) -> Iterator[Guarded]:
    """Start everything but the proxy."""
    rules = directory / "sidecar.toml"
    rules.write_text(RULES)
    with ExitStack() as stack:
        flowless, secret = stack.enter_context(prepared_flowless(directory))
        sidecar = SidecarProcess(
            directory=directory,
            upstream=flowless.address,
            secret=secret,
            environment={"BRIDGE_SIDECAR_CONFIG": str(rules), **GATE, **environment},
        )
        stack.enter_context(sidecar)
        channel = stack.enter_context(grpc.insecure_channel(flowless.address))
        guarded = Guarded(
            flowless=flowless,
            sidecar=sidecar,
            app=stack.enter_context(EchoApp()),
            admin=Client(channel, secret),
            rules=rules,
            database=directory / "flowless.db",
        )
        guarded.wait_for_lease()
        yield guarded
