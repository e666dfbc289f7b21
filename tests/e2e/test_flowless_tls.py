"""Flowless' TLS: certificates renewed without a restart, client certificates, and bridges that are bound to them."""

import json
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from flowless.domain.bridges import Scope
from tests.support.certificates import Authority, Pair, PemFiles
from tests.support.flowless import METHODS, Client, Flowless, bearer, call_raw, outcome, running_flowless
from tests.support.rpc import reason
from tools.processes import ProcessError, free_port, temporary_directory
from trustlayer.v1 import admin_pb2

pytestmark = pytest.mark.long

WAIT_SECONDS = 20.0
SHOP, OTHER = "spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/other/sa/web"
DNS = "shop.internal"
REFUSED = ("UNAUTHENTICATED", "BRIDGE_CREDENTIAL_REFUSED")
OK = ("OK", "")


@dataclass(frozen=True, slots=True)
class Served:
    """Flowless with TLS on one port and client certificates on another, and who vouches for whom."""

    flowless: Flowless
    files: PemFiles
    servers: Authority
    clients: Authority
    plain_port: int
    mutual_port: int

    @property
    def log(self) -> str:
        return self.flowless.log_text

    @contextmanager
    def channel(
        self, port: int, pair: Pair | None = None, *, authority: Authority | None = None
    ) -> Iterator[grpc.Channel]:
        """A connection of its own."""
        roots = (authority or self.servers).pem
        credentials = grpc.ssl_channel_credentials(roots, *(() if pair is None else (pair.key, pair.certificate)))
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.secure_channel(f"localhost:{port}", credentials, options=options) as opened:
            yield opened

    def certificate(self) -> str:
        """What a new connection is shown, as PEM."""
        return ssl.get_server_certificate(("localhost", self.plain_port), timeout=WAIT_SECONDS)

    @contextmanager
    def admin(self) -> Iterator[Client]:
        """The bridge that holds every scope."""
        with self.channel(self.plain_port) as channel:
            yield Client(channel, self.flowless.client.secret)

    def bound(self, client_id: str, scopes: Sequence[Scope] = tuple(Scope)) -> str:
        """Secret of a new bridge that is bound."""
        with self.admin() as client:
            bridge_id, secret = client.create_bridge(*scopes)
            client.admin.BindBridge(admin_pb2.BindBridgeRequest(bridge_id=bridge_id, client_id=client_id))
            return secret

    def call(self, port: int, pair: Pair | None, secret: str) -> tuple[str, str]:
        """Outcome of a validation."""
        with self.channel(port, pair) as channel:
            return outcome(lambda: Client(channel, secret).denial("x"))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    servers, clients = Authority("servers"), Authority("clients")
    with temporary_directory() as directory:
        files, mutual_port = PemFiles.of(directory, "server"), free_port()
        files.put(servers.server(), clients.pem)
        settings = {
            "listen": "localhost:0",
            "tls_cert_file": str(files.certificate),
            "tls_key_file": str(files.key),
            "tls_client_ca_file": str(files.authorities),
            "mtls_listen": f"localhost:{mutual_port}",
        }
        with running_flowless(directory, **settings) as flowless:
            plain_port = int(flowless.process.address.rpartition(":")[2])
            yield Served(flowless, files, servers, clients, plain_port, mutual_port)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_renewed_certificate_is_shown_to_new_connections_while_open_ones_and_their_calls_go_on(
    served: Served,
) -> None:
    with served.admin() as before, before.watch() as watch:
        watch.ready()
        for _ in range(2):
            fresh = served.servers.server()
            served.files.put(fresh)
            while served.certificate() != fresh.certificate.decode():
                assert served.call(served.plain_port, None, before.secret) == OK
                assert outcome(lambda: before.denial("x")) == OK
        watch.ping(1)
    assert served.flowless.process.is_running


def test_an_authority_that_signs_the_server_anew_is_what_clients_have_to_trust(served: Served) -> None:
    successor = Authority("successor")
    served.files.put(successor.server())
    try:

        def trusted(authority: Authority) -> bool:
            with served.channel(served.plain_port, authority=authority) as channel:
                return outcome(lambda: Client(channel, served.flowless.client.secret).denial("x")) == OK

        _until(lambda: trusted(successor))
        assert not trusted(served.servers)
    finally:
        good = served.servers.server()
        served.files.put(good)
        _until(lambda: served.certificate() == good.certificate.decode())


def _of_another(served: Served) -> None:
    served.files.put(Pair(served.servers.server().key, served.servers.server().certificate))


def _garbage(served: Served) -> None:
    served.files.put(Pair(b"garbage", b"garbage"))


def _empty_authorities(served: Served) -> None:
    served.files.put(served.servers.server(), b"")


def _gone(served: Served) -> None:
    served.files.key.unlink()


@pytest.mark.parametrize("spoil", [_of_another, _garbage, _empty_authorities, _gone])
def test_files_that_cannot_be_used_are_told_of_and_what_was_there_stays(
    served: Served, spoil: Callable[[Served], None]
) -> None:
    shown, told = served.certificate(), served.log.count("not replaced")
    spoil(served)
    _until(lambda: served.log.count("not replaced") > told)
    assert served.certificate() == shown
    assert served.call(served.plain_port, None, served.flowless.client.secret) == OK
    assert "PRIVATE KEY" not in served.log
    good = served.servers.server()
    served.files.put(good, served.clients.pem)
    _until(lambda: served.certificate() == good.certificate.decode())


def test_where_client_certificates_are_asked_for_nobody_is_heard_without_a_good_one(served: Served) -> None:
    stranger = Authority("stranger").issue("shop", uris=(SHOP,))
    expired = served.clients.issue("shop", uris=(SHOP,), days_ago=1)
    secret = served.flowless.client.secret
    for pair in (None, stranger, expired):
        assert served.call(served.mutual_port, pair, secret)[0] == "UNAVAILABLE"
    assert served.call(served.mutual_port, served.clients.issue("anybody"), secret) == OK
    assert served.call(served.plain_port, None, secret) == OK


def test_clients_authorities_are_read_again_too(served: Served) -> None:
    successor = Authority("clients to come")
    old, new = served.clients.issue("old"), successor.issue("new")
    secret = served.flowless.client.secret
    assert served.call(served.mutual_port, new, secret)[0] == "UNAVAILABLE"
    served.files.put(authorities=served.clients.pem + successor.pem)
    _until(lambda: served.call(served.mutual_port, new, secret) == OK)
    assert served.call(served.mutual_port, old, secret) == OK
    served.files.put(authorities=successor.pem)
    _until(lambda: served.call(served.mutual_port, old, secret)[0] == "UNAVAILABLE")
    served.files.put(authorities=served.clients.pem)
    _until(lambda: served.call(served.mutual_port, old, secret) == OK)


def _pairs(served: Served) -> dict[str, Pair | None]:
    issue = served.clients.issue
    return {
        "none": None,
        "the SPIFFE id": issue("web", uris=(SHOP,)),
        "the SPIFFE id beside a DNS name": issue("web", uris=(SHOP,), dns=("web",)),
        "another SPIFFE id": issue("web", uris=(OTHER,)),
        "a SPIFFE id that goes on": issue("web", uris=(SHOP + "/x",)),
        "two SPIFFE ids": issue("web", uris=(SHOP, OTHER)),
        "the DNS name": issue("web", dns=("x.internal", DNS)),
        "another DNS name": issue("web", dns=("other.internal",)),
        "a wildcard": issue("web", dns=("*.internal",)),
        "the id as a common name": issue(SHOP),
        "the DNS name as a common name": issue(DNS),
        "the id as a DNS name": issue("web", dns=(SHOP,)),
        "the DNS name as a URI": issue("web", uris=(DNS,)),
    }


@pytest.mark.parametrize(
    ("client_id", "theirs"),
    [(SHOP, {"the SPIFFE id", "the SPIFFE id beside a DNS name"}), (DNS, {"the DNS name"})],
)
def test_a_bound_bridges_secret_is_worth_nothing_over_any_connection_but_its_clients(
    served: Served, client_id: str, theirs: set[str]
) -> None:
    secret = served.bound(client_id)
    found = {
        name: served.call(served.plain_port if pair is None else served.mutual_port, pair, secret)
        for name, pair in _pairs(served).items()
    }
    assert found == {name: OK if name in theirs else REFUSED for name in found}


def test_a_bound_bridge_may_do_over_its_clients_connection_what_its_scopes_allow_by_every_rpc(served: Served) -> None:
    secret = served.bound(SHOP)
    mine, others = served.clients.issue("web", uris=(SHOP,)), served.clients.issue("web", uris=(OTHER,))
    with served.channel(served.mutual_port, mine) as good, served.channel(served.mutual_port, others) as bad:
        for path in METHODS:
            allowed = outcome(call_raw(good, path, metadata=bearer(secret)))
            # What is not built is not built for anybody.
            unbuilt = outcome(call_raw(good, path, metadata=bearer(served.flowless.client.secret)))[0]
            assert allowed[0] in {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} | ({unbuilt} & {"UNIMPLEMENTED"}), path
            assert outcome(call_raw(bad, path, metadata=bearer(secret))) == REFUSED, path
        malformed = call_raw(good, "/trustlayer.v1.AdminService/CreateBridge", b"\x0a\xff", bearer(secret))
        assert outcome(malformed) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")
        narrow = served.bound(SHOP, (Scope.VALIDATE,))
        listing = "/trustlayer.v1.AdminService/ListBridges"
        assert outcome(call_raw(good, listing, metadata=bearer(narrow))) == ("PERMISSION_DENIED", "SCOPE_MISSING")
        assert outcome(call_raw(bad, listing, metadata=bearer(narrow))) == REFUSED


def test_a_call_of_one_message_that_brings_none_is_refused_over_a_bound_connection_too(served: Served) -> None:
    secret = served.bound(SHOP)
    with served.channel(served.mutual_port, served.clients.issue("web", uris=(SHOP,))) as channel:
        dialled: Any = channel
        call = dialled.stream_stream("/trustlayer.v1.AdminService/ListBridges")
        responses = call(iter(()), metadata=bearer(secret), timeout=WAIT_SECONDS)
        assert outcome(lambda: list(responses)) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


def test_watching_needs_the_clients_certificate_for_as_long_as_it_lasts(served: Served) -> None:
    with served.admin() as admin:
        bridge_id, secret = admin.create_bridge(Scope.VALIDATE)

        def bind(client_id: str) -> None:
            admin.admin.BindBridge(admin_pb2.BindBridgeRequest(bridge_id=bridge_id, client_id=client_id))

        bind(SHOP)
        with served.channel(served.mutual_port, served.clients.issue("web", uris=(SHOP,))) as channel:
            client = Client(channel, secret)
            with client.watch() as watch:
                watch.ready()
                watch.ping(1)
                bind(OTHER)
                assert reason(watch.failure()) in {"DRAINING", "BRIDGE_CREDENTIAL_REFUSED"}
            assert outcome(lambda: client.denial("x")) == REFUSED
            with client.watch() as again:
                assert outcome(again.ready) == REFUSED
            bind(SHOP)
            assert outcome(lambda: client.denial("x")) == OK


def test_a_refusal_for_a_certificate_is_noted_with_the_bridge_and_is_no_use_of_it(served: Served) -> None:
    with served.admin() as admin:
        bridge_id, secret = admin.create_bridge(Scope.VALIDATE)
        admin.admin.BindBridge(admin_pb2.BindBridgeRequest(bridge_id=bridge_id, client_id=SHOP))
        assert served.call(served.plain_port, None, secret) == REFUSED
        events = admin.admin.ListAuditEvents(admin_pb2.ListAuditEventsRequest(page_size=100)).events
        refused = [event for event in events if event.action == "call.refused" and event.subject == bridge_id]
        assert [dict(event.details)["reason"] for event in refused] == ["BRIDGE_CREDENTIAL_REFUSED"]


def test_files_that_cannot_be_used_stop_the_start(run_dir: Path) -> None:
    files = PemFiles.of(run_dir, "server")
    authority = Authority()
    files.put(Pair(authority.server().key, authority.server().certificate))
    settings = {"tls_cert_file": str(files.certificate), "tls_key_file": str(files.key)}
    with pytest.raises(ProcessError, match=str(files.certificate)), running_flowless(run_dir, **settings):
        pass


def test_uses_are_written_for_the_bridge_and_each_of_its_secrets_when_a_replica_ends(run_dir: Path) -> None:
    with running_flowless(run_dir) as flowless:
        bridge_id, old = flowless.client.create_bridge(Scope.VALIDATE)
        unused_id, _ = flowless.client.create_bridge(Scope.VALIDATE)
        request = admin_pb2.RotateBridgeSecretRequest(bridge_id=bridge_id)
        request.overlap.FromSeconds(3_600)
        flowless.client.admin.RotateBridgeSecret(request)
        Client(flowless.client.channel, old).denial("x")
        flowless.process.stop()
        listed = {row["id"]: row for row in json.loads(flowless.process.run_command("bridges", "list", "--json"))}
    used = listed[bridge_id]
    assert used["secrets"] == 2
    assert used["last_used"] == used["old_secrets_used"] is not None
    assert listed[unused_id]["last_used"] is None
