"""Secrets, certificates and connections are replaced under an app that keeps asking, and it is never refused."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.support.certificates import Authority, Pair, PemFiles
from tests.support.load import Load
from tests.support.system import App, prepared_flowless
from tools.processes import FlowlessProcess, SidecarProcess, temporary_directory

pytestmark = pytest.mark.long

BRIDGE = "sidecar"
EMAIL = "ada@example.org"
SPIFFE = "spiffe://example.org/ns/shop/sa/web"


@dataclass(frozen=True, slots=True)
class System:
    """Both programs over mutual TLS, with connections that live for a second or two, and a bridge that is bound."""

    flowless: FlowlessProcess
    sidecar: SidecarProcess
    files: PemFiles
    of_sidecar: PemFiles
    authority: Authority
    channel: grpc.Channel
    session_id: str
    user_id: str
    database: Path

    def load(self) -> Load:
        return Load(self.channel, session_id=self.session_id, user_id=self.user_id, email=EMAIL)

    def told(self, what: str) -> int:
        """How often the sidecar has logged this."""
        return self.sidecar.log.read_text().count(what)

    def client(self) -> Pair:
        return self.authority.issue("web", uris=(SPIFFE,))


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    authority = Authority()
    with temporary_directory() as directory:
        files, of_sidecar = PemFiles.of(directory, "flowless"), PemFiles.of(directory, "client")
        files.put(authority.server(), authority.pem)
        of_sidecar.put(authority.issue("web", uris=(SPIFFE,)), authority.pem)
        environment = {
            "FLOWLESS_TLS_CERT_FILE": str(files.certificate),
            "FLOWLESS_TLS_KEY_FILE": str(files.key),
            "FLOWLESS_TLS_CLIENT_CA_FILE": str(files.authorities),
            "FLOWLESS_CONNECTION_AGE_SECONDS": "2",
            "FLOWLESS_CONNECTION_GRACE_SECONDS": "1",
            "FLOWLESS_ATTEMPTS_PER_IP_PER_MINUTE": "1000000",
        }
        with prepared_flowless(directory, listen="localhost:0", environment=environment) as (flowless, secret):
            flowless.run_command("bridges", "bind", BRIDGE, SPIFFE)
            sidecar = SidecarProcess(
                directory=directory,
                upstream=f"localhost:{flowless.address.rpartition(':')[2]}",
                secret=secret,
                environment={
                    "BRIDGE_SIDECAR_UPSTREAM_CA_FILE": str(of_sidecar.authorities),
                    "BRIDGE_SIDECAR_UPSTREAM_CERT_FILE": str(of_sidecar.certificate),
                    "BRIDGE_SIDECAR_UPSTREAM_KEY_FILE": str(of_sidecar.key),
                },
            )
            with sidecar, grpc.insecure_channel(sidecar.address) as channel:
                app = App(channel)
                app.wait_for_lease()
                user = app.register(EMAIL)
                session_id = app.log_in(EMAIL).session_id
                yield System(
                    flowless, sidecar, files, of_sidecar, authority, channel, session_id, user.id,
                    directory / "flowless.db",
                )  # fmt: skip


def test_connections_that_end_of_age_refuse_nobody(system: System) -> None:
    with system.load() as load:
        # The watch is cut with each connection that it was on; what is asked meanwhile is answered.
        before = system.told("revocation watch ended")
        load.until(lambda: system.told("revocation watch ended") >= before + 2)
        load.goes_on()
    assert load.failures == {}


def test_a_secret_is_rotated_with_an_overlap_and_the_old_one_dies_and_nobody_is_refused(system: System) -> None:
    with system.load() as load:
        load.goes_on()
        rotate = ("bridges", "rotate", BRIDGE, "--overlap", "1h", "--json")
        rotated = json.loads(system.flowless.run_command(*rotate))
        load.goes_on()
        system.sidecar.write_secret(rotated["secret"])
        load.until(lambda: system.told("bridge secret read again") == 1)
        with closing(sqlite3.connect(system.database, timeout=10)) as connection, connection:
            now_us = time.time_ns() // 1_000
            dead = connection.execute(
                "UPDATE bridge_secrets SET expires_us = ? WHERE expires_us > ?", (now_us, now_us)
            )
            assert dead.rowcount == 1
        # Longer than Flowless trusts what it has read of a bridge.
        ends = time.monotonic() + 2.5
        load.until(lambda: time.monotonic() > ends)
        load.goes_on()
    assert load.failures == {}
    assert App(system.channel).status().lease_held


def test_the_sidecars_certificate_is_renewed_and_nobody_is_refused(system: System) -> None:
    with system.load() as load:
        for _ in range(2):
            connected = system.told("connected anew")
            system.of_sidecar.put(system.client())
            load.until(lambda: system.told("connected anew") > connected)  # noqa: B023 - called at once
            load.goes_on()
    assert load.failures == {}


def test_files_that_flowless_does_not_accept_are_told_of_and_nobody_is_refused(system: System) -> None:
    stranger = Authority("stranger").issue("web", uris=(SPIFFE,))
    unfit = Pair(system.client().key, system.client().certificate)
    with system.load() as load:
        # An empty file would end gRPC's client, or let it trust whomever the system trusts.
        for pair, authorities in ((stranger, None), (unfit, None), (Pair(b"", b""), None), (None, b"")):
            told = system.told("TLS files not replaced")
            system.of_sidecar.put(pair, authorities)
            load.until(lambda: system.told("TLS files not replaced") > told)  # noqa: B023 - called at once
            load.goes_on()
            connected = system.told("connected anew")
            system.of_sidecar.put(system.client(), system.authority.pem)
            load.until(lambda: system.told("connected anew") > connected)  # noqa: B023 - called at once
    assert load.failures == {}
    assert "PRIVATE KEY" not in system.sidecar.log.read_text()


def test_authorities_are_replaced_on_both_sides_and_nobody_is_refused(system: System) -> None:
    old, new = system.authority, Authority("successor")
    with system.load() as load:

        def connects_anew(pair: Pair | None, authorities: bytes | None) -> None:
            connected = system.told("connected anew")
            system.of_sidecar.put(pair, authorities)
            load.until(lambda: system.told("connected anew") > connected)
            load.goes_on()

        def flowless_reads(pair: Pair | None, authorities: bytes | None) -> None:
            read = system.flowless.log.read_text().count("TLS files read again")
            system.files.put(pair, authorities)
            load.until(lambda: system.flowless.log.read_text().count("TLS files read again") > read)
            load.goes_on()

        # Both are trusted, then both show what the new one signed, then only that is trusted.
        flowless_reads(None, old.pem + new.pem)
        connects_anew(None, old.pem + new.pem)
        flowless_reads(new.server(), None)
        connects_anew(new.issue("web", uris=(SPIFFE,)), None)
        connects_anew(None, new.pem)
        flowless_reads(None, new.pem)
    assert load.failures == {}
