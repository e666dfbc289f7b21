"""Who may call what, for every RPC that there is: denied unless the proto declares it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor

from flowless.domain.bridges import Scope
from tests.support.flowless import METHODS, Flowless, bearer, call_raw, outcome, running_flowless
from tests.support.stores import counting_random
from tools.processes import temporary_directory
from trust_core.identifiers import new_bridge_id, new_bridge_secret, new_session_id
from trustlayer.pubflow.v1 import pubflow_pb2
from trustlayer.v1 import (
    admin_pb2,
    bridge_pb2,
    identity_pb2,
    options_pb2,
    session_pb2,
    trust_token_pb2,
    validator_pb2,
)

Metadata = Sequence[tuple[str, str]]

MISSING = ("UNAUTHENTICATED", "BRIDGE_CREDENTIAL_MISSING")
REFUSED = ("UNAUTHENTICATED", "BRIDGE_CREDENTIAL_REFUSED")
NO_SCOPE = ("PERMISSION_DENIED", "SCOPE_MISSING")
EVERY_RPC = pytest.mark.parametrize("path", METHODS, ids=lambda path: path.rpartition(".")[2])


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory, pubflow="true") as running:
        yield running


@pytest.fixture(scope="module")
def channel(flowless: Flowless) -> Iterator[grpc.Channel]:
    """A channel without any credential."""
    with grpc.insecure_channel(flowless.process.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def secrets(flowless: Flowless) -> Mapping[Scope, str]:
    """The secret of a bridge with just that scope."""
    return {scope: flowless.client.create_bridge(scope)[1] for scope in Scope}


@pytest.fixture(scope="module")
def bad_credentials(flowless: Flowless) -> Mapping[str, tuple[Metadata, tuple[str, str]]]:
    """Metadata that must open nothing, and how each is refused."""
    good = flowless.client.secret
    live_id, rotated = flowless.client.create_bridge(*Scope)
    flowless.client.admin.RotateBridgeSecret(admin_pb2.RotateBridgeSecretRequest(bridge_id=live_id))
    revoked_id, revoked = flowless.client.create_bridge(*Scope)
    flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=revoked_id))
    return {
        "absent": ((), MISSING),
        "empty": ((("authorization", ""),), MISSING),
        "no scheme": ((("authorization", good),), MISSING),
        "another scheme": ((("authorization", f"Basic {good}"),), MISSING),
        "another header": ((("x-authorization", f"Bearer {good}"),), MISSING),
        "twice": ((*bearer(good), *bearer(good)), MISSING),
        "no secret": (bearer(""), REFUSED),
        "garbage": (bearer("x" * 71), REFUSED),
        "overlong": (bearer(good + "0" * 1_000), REFUSED),
        "cut short": (bearer(good[:-1]), REFUSED),
        "a space behind": (bearer(f"{good} x"), REFUSED),
        "a typing error": (bearer(good[:-8] + ("1" if good[-8] == "0" else "0") + good[-7:]), REFUSED),
        "a session id": (bearer(new_session_id(counting_random)), REFUSED),
        "a bridge that does not exist": (bearer(_secret_for(new_bridge_id(counting_random))), REFUSED),
        "another secret of a live bridge": (bearer(_secret_for(live_id)), REFUSED),
        "rotated away": (bearer(rotated), REFUSED),
        "revoked": (bearer(revoked), REFUSED),
    }


@pytest.fixture(scope="module")
def dead_credentials(flowless: Flowless) -> Mapping[str, str]:
    """For each single scope: secrets that were never good, are no longer, or are good over another connection."""
    found: dict[str, str] = {}
    for scope in Scope:
        bridge_id, found[f"{scope.name}, expired"] = flowless.client.create_bridge(scope)
        request = admin_pb2.RotateBridgeSecretRequest(bridge_id=bridge_id)
        request.overlap.FromSeconds(3_600)
        flowless.client.admin.RotateBridgeSecret(request)
        with flowless.sql() as connection:
            update = "UPDATE bridge_secrets SET expires_us = ? WHERE bridge_id = ? AND expires_us IS NOT NULL"
            assert connection.execute(update, (time.time_ns() // 1_000, bridge_id)).rowcount == 1
        found[f"{scope.name}, wrong"] = _secret_for(bridge_id)
        bridge_id, found[f"{scope.name}, revoked"] = flowless.client.create_bridge(scope)
        flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id))
        bridge_id, found[f"{scope.name}, bound"] = flowless.client.create_bridge(scope)
        flowless.client.admin.BindBridge(admin_pb2.BindBridgeRequest(bridge_id=bridge_id, client_id="shop.internal"))
    return found


def _secret_for(bridge_id: str) -> str:
    return new_bridge_secret(bridge_id, counting_random)


def _declared(path: str) -> Scope:
    return Scope(METHODS[path].GetOptions().Extensions[options_pb2.scope])


@EVERY_RPC
def test_a_bridge_may_call_an_rpc_only_with_the_scope_that_it_declares(
    channel: grpc.Channel, secrets: Mapping[Scope, str], path: str
) -> None:
    outcomes = {scope: outcome(call_raw(channel, path, metadata=bearer(secrets[scope]))) for scope in Scope}
    allowed = outcomes.pop(_declared(path))
    assert set(outcomes.values()) == {NO_SCOPE}
    # A request without a session is refused as such only by who lets it in.
    assert allowed[0] in {"OK", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND"} or allowed[1] == "SESSION_REFUSED"


@EVERY_RPC
def test_an_rpc_is_refused_without_a_credential_that_is_good_now(
    channel: grpc.Channel, bad_credentials: Mapping[str, tuple[Metadata, tuple[str, str]]], path: str
) -> None:
    found = {name: outcome(call_raw(channel, path, metadata=sent)) for name, (sent, _) in bad_credentials.items()}
    assert found == {name: expected for name, (_, expected) in bad_credentials.items()}


@EVERY_RPC
def test_no_scope_makes_a_dead_credential_worth_anything(
    channel: grpc.Channel, dead_credentials: Mapping[str, str], path: str
) -> None:
    found = {name: outcome(call_raw(channel, path, metadata=bearer(s))) for name, s in dead_credentials.items()}
    assert len(found) == 4 * len(Scope)
    assert found == dict.fromkeys(dead_credentials, REFUSED)


def test_every_service_of_the_standard_is_served_here_or_by_the_sidecar() -> None:
    package = [
        service
        for module in (admin_pb2, bridge_pb2, identity_pb2, pubflow_pb2, session_pb2, trust_token_pb2, validator_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    sidecars = {path for path, scope in _scopes(package).items() if scope == options_pb2.SCOPE_LOCAL_SOCKET}
    assert _scopes(package).keys() == METHODS.keys() | sidecars
    assert sidecars


def _scopes(services: Iterable[ServiceDescriptor]) -> dict[str, int]:
    return {
        f"/{service.full_name}/{method.name}": method.GetOptions().Extensions[options_pb2.scope]
        for service in services
        for method in service.methods
    }


def test_every_scope_that_a_bridge_can_hold_opens_some_rpc() -> None:
    assert {_declared(path) for path in METHODS} == set(Scope)


def test_the_scheme_of_a_credential_is_compared_without_case(flowless: Flowless, channel: grpc.Channel) -> None:
    metadata = (("authorization", f"bEARER {flowless.client.secret}"),)
    assert outcome(call_raw(channel, "/trustlayer.v1.AdminService/ListBridges", metadata=metadata))[0] == "OK"


def test_a_secret_that_was_rotated_with_an_overlap_stays_good_beside_the_new_one(
    flowless: Flowless, channel: grpc.Channel
) -> None:
    bridge_id, old = flowless.client.create_bridge(Scope.ADMIN)
    request = admin_pb2.RotateBridgeSecretRequest(bridge_id=bridge_id)
    request.overlap.FromSeconds(3600)
    new = flowless.client.admin.RotateBridgeSecret(request).secret
    for secret in (old, new):
        call = call_raw(channel, "/trustlayer.v1.AdminService/ListBridges", metadata=bearer(secret))
        assert outcome(call)[0] == "OK"


def test_a_bridge_that_was_revoked_is_refused_by_the_very_next_call(
    flowless: Flowless, channel: grpc.Channel
) -> None:
    for _ in range(5):
        bridge_id, secret = flowless.client.create_bridge(Scope.ADMIN)
        call = call_raw(channel, "/trustlayer.v1.AdminService/ListBridges", metadata=bearer(secret))
        assert outcome(call)[0] == "OK"
        flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id))
        # The replica forgets the bridge when its tail reads the row that it was woken for.
        with flowless.client.watch() as watch:
            watch.ready()
            watch.ping(1)
        assert outcome(call) == REFUSED


@pytest.mark.parametrize(
    "path",
    ["/trustlayer.v1.AdminService/Nothing", "/trustlayer.v1.ValidatorService/Validate", "/x", "/a.B/C"],
)
def test_an_rpc_that_is_not_served_tells_a_stranger_nothing(
    flowless: Flowless, channel: grpc.Channel, path: str
) -> None:
    call = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
    assert outcome(lambda: call(b"", timeout=20)) == MISSING
    with_credential = bearer(flowless.client.secret)
    told = outcome(lambda: call(b"", metadata=with_credential, timeout=20))
    assert told == ("UNIMPLEMENTED", "NOT_IMPLEMENTED")


def test_every_rpc_that_is_declared_is_built(flowless: Flowless, channel: grpc.Channel) -> None:
    credential = bearer(flowless.client.secret)
    unbuilt = [p for p in METHODS if outcome(call_raw(channel, p, metadata=credential))[0] == "UNIMPLEMENTED"]
    assert unbuilt == []


@EVERY_RPC
def test_bytes_that_are_not_the_message_are_malformed(flowless: Flowless, channel: grpc.Channel, path: str) -> None:
    call = call_raw(channel, path, b"\x0a\xff", bearer(flowless.client.secret))
    assert outcome(call) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")


def test_a_string_that_is_not_utf_8_is_malformed_wherever_it_stands(
    flowless: Flowless, channel: grpc.Channel
) -> None:
    paths = [path for path, method in METHODS.items() if method.input_type.fields_by_number]
    malformed = []
    for path in paths:
        first = METHODS[path].input_type.fields_by_number.get(1)
        if first is not None and first.type == first.TYPE_STRING:
            malformed.append(path)
            call = call_raw(channel, path, b"\x0a\x02\xff\xfe", bearer(flowless.client.secret))
            assert outcome(call) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE"), path
    assert len(malformed) > 10


def test_a_malformed_ping_ends_the_watch(flowless: Flowless, channel: grpc.Channel) -> None:
    start = bridge_pb2.WatchRevocationsRequest(start=bridge_pb2.WatchStart()).SerializeToString()
    call = channel.stream_stream("/trustlayer.v1.BridgeService/WatchRevocations", bytes, bytes)
    responses = call(iter([start, b"\x0a\xff"]), metadata=bearer(flowless.client.secret), timeout=20)
    assert outcome(lambda: list(responses)) == ("INVALID_ARGUMENT", "MALFORMED_MESSAGE")
