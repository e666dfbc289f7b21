"""Streams outlive the check at the door: they end when their credential is no longer good, whichever RPC it is."""

import queue
import time
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest

from flowless.domain.bridges import Scope
from tests.support.flowless import (
    METHODS,
    Client,
    Flowless,
    bearer,
    code_of,
    outcome,
    running_flowless,
)
from tests.support.rpc import reason
from tools.processes import temporary_directory
from trustlayer.v1 import admin_pb2, bridge_pb2, identity_pb2

STREAMS = [path for path, method in METHODS.items() if method.client_streaming or method.server_streaming]
NO_LONGER = ("UNAUTHENTICATED", "BRIDGE_CREDENTIAL_REFUSED", "the bridge credential is no longer valid")


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory, max_watchers_per_bridge="3") as running:
        yield running


def _silent(flowless: Flowless, path: str, secret: str) -> Any:
    """Open a stream without a message; it is admitted, since another call on the connection was answered after it."""
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    dialled = cast("Any", flowless.client.channel)
    call = dialled.stream_stream(path)(iter(messages.get, b""), metadata=bearer(secret), timeout=20)
    for _ in range(3):
        outcome(lambda: Client(flowless.client.channel, secret).denial("x"))
    return call


def _end(call: Any) -> tuple[str, str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    return code_of(caught.value), reason(caught.value), str(cast("Any", caught.value).details())


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.rpartition("/")[2])
def test_a_stream_that_is_open_ends_when_its_bridge_is_revoked(flowless: Flowless, path: str) -> None:
    bridge_id, secret = flowless.client.create_bridge(*Scope)
    call = _silent(flowless, path, secret)
    flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id))
    assert _end(call) == NO_LONGER


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.rpartition("/")[2])
def test_a_stream_that_is_open_ends_when_its_bridge_is_bound_to_a_client_that_it_is_not(
    flowless: Flowless, path: str
) -> None:
    bridge_id, secret = flowless.client.create_bridge(*Scope)
    call = _silent(flowless, path, secret)
    flowless.client.admin.BindBridge(admin_pb2.BindBridgeRequest(bridge_id=bridge_id, client_id="shop.internal"))
    assert _end(call) == NO_LONGER


def test_an_import_adds_nobody_after_its_bridge_was_revoked(flowless: Flowless) -> None:
    bridge_id, secret = flowless.client.create_bridge(Scope.ADMIN)
    batches: queue.SimpleQueue[identity_pb2.ImportUsersRequest | None] = queue.SimpleQueue()
    call = Client(flowless.client.channel, secret).identity.ImportUsers(iter(batches.get, None))

    def send(number: int) -> None:
        user = identity_pb2.ImportedUser(number=number, email=f"{number}@streams.example")
        batches.put(identity_pb2.ImportUsersRequest(users=[user]))

    send(1)
    assert next(call).added == 1
    flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id))
    assert _end(call) == NO_LONGER
    send(2)
    batches.put(None)
    with flowless.sql() as connection:
        added = connection.execute("SELECT email FROM users WHERE email LIKE '%@streams.example'").fetchall()
    assert added == [("1@streams.example",)]


def test_a_stream_of_a_secret_that_expires_ends_and_one_of_the_new_secret_goes_on(flowless: Flowless) -> None:
    bridge_id, old = flowless.client.create_bridge(Scope.ADMIN)
    request = admin_pb2.RotateBridgeSecretRequest(bridge_id=bridge_id)
    request.overlap.FromSeconds(3_600)
    new = flowless.client.admin.RotateBridgeSecret(request).secret
    path = "/trustlayer.v1.IdentityService/ImportUsers"
    of_old, of_new = _silent(flowless, path, old), _silent(flowless, path, new)
    with flowless.sql() as connection:
        connection.execute(
            "UPDATE bridge_secrets SET expires_us = 1 WHERE bridge_id = ? AND expires_us > 0", (bridge_id,)
        )
    assert _end(of_old) == NO_LONGER
    assert of_new.is_active()
    of_new.cancel()


def test_one_bridge_takes_a_bounded_number_of_watch_streams_and_leaves_the_rest_to_others(flowless: Flowless) -> None:
    _, secret = flowless.client.create_bridge(Scope.VALIDATE)
    greedy = Client(flowless.client.channel, secret)
    watches = [greedy.watch() for _ in range(3)]
    for watch in watches:
        watch.ready()
    with greedy.watch() as one_too_many:
        assert outcome(one_too_many.ready) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
    with flowless.client.watch() as other:
        other.ready()
    for watch in watches:
        with watch:
            pass
    deadline = time.monotonic() + 20
    while True:
        with greedy.watch() as again:
            if outcome(again.ready) == ("OK", ""):
                break
        assert time.monotonic() < deadline, "places are never freed"


def test_a_stream_of_a_good_bridge_is_left_alone_by_the_revocation_of_another(flowless: Flowless) -> None:
    other_id, _ = flowless.client.create_bridge(Scope.VALIDATE)
    with flowless.client.watch() as watch:
        watch.ready()
        flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=other_id))
        rows, _ = watch.ping(1)
        assert isinstance(rows[-1], bridge_pb2.Revocation)
        watch.ping(2)
