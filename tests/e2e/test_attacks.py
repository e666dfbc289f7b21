"""Attacks that a reviewer made against the running programs. Each failed before it was mended, or must never work."""

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from flowless.domain.bridges import Scope
from tests.support.flowless import Client, Flowless, Watch, outcome, running_flowless
from tests.support.raw_http2 import RawHttp2
from tests.support.system import running_system
from trust_core.identifiers import new_bridge_id, new_bridge_secret
from trustlayer.v1 import admin_pb2, bridge_pb2, types_pb2

pytestmark = pytest.mark.long

WAIT_SECONDS = 20.0
HEALTH_WATCH, HEALTH_CHECK = "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/Check"
VALIDATE = "/trustlayer.v1.BridgeService/ValidateSession"
WATCH = "/trustlayer.v1.BridgeService/WatchRevocations"


def _becomes(flowless: Flowless, wanted: tuple[str, str]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while (now := outcome(lambda: flowless.client.denial("x"))) != wanted:
        assert time.monotonic() < deadline, now
        time.sleep(0.05)


@pytest.mark.parametrize("path", [VALIDATE, WATCH, HEALTH_WATCH, HEALTH_CHECK])
def test_calls_without_credential_and_message_hold_no_place_for_long(run_dir: Path, path: str) -> None:
    with running_flowless(run_dir, max_concurrent_calls="20") as flowless:
        assert outcome(lambda: flowless.client.denial("x")) == ("OK", "")
        with RawHttp2(flowless.process.address) as attacker:
            for _ in range(40):
                attacker.open(path)
            _becomes(flowless, ("OK", ""))


@pytest.mark.parametrize("path", [HEALTH_WATCH, HEALTH_CHECK])
def test_a_health_caller_that_never_reads_keeps_neither_program_from_ending(run_dir: Path, path: str) -> None:
    with running_system(run_dir) as system:
        with RawHttp2(system.flowless.address, window=0) as one, RawHttp2(system.sidecar.address, window=0) as two:
            for attacker in (one, two):
                attacker.open(path, message=b"")
            session = system.app.register("ada@example.org")
            assert session.id
            assert system.sidecar.stop(timeout=WAIT_SECONDS) == 0
            assert system.flowless.stop(timeout=WAIT_SECONDS) == 0
        assert not system.sidecar.socket.exists()


def test_a_watch_that_was_opened_before_its_bridge_was_revoked_learns_nothing_afterwards(run_dir: Path) -> None:
    with running_flowless(run_dir) as flowless:
        bridge_id, secret = flowless.client.create_bridge(Scope.VALIDATE)
        with Watch(Client(flowless.client.channel, secret).bridge) as watch:
            # The credential was good when the call began; the first message comes after the revocation.
            assert outcome(lambda: Client(flowless.client.channel, secret).denial("x")) == ("OK", "")
            flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id))
            watch.send(start=bridge_pb2.WatchStart())
            assert outcome(watch.ready) == ("UNAUTHENTICATED", "BRIDGE_CREDENTIAL_REFUSED")


def test_a_watch_ends_when_its_secret_expires_after_a_rotation(run_dir: Path) -> None:
    with running_flowless(run_dir) as flowless:
        bridge_id, secret = flowless.client.create_bridge(Scope.VALIDATE)
        request = admin_pb2.RotateBridgeSecretRequest(bridge_id=bridge_id)
        request.overlap.FromSeconds(5)
        flowless.client.admin.RotateBridgeSecret(request)
        with flowless.client.watch() as other:
            other.ready()
            other.ping(1)  # its pong comes after the rotation's row, which would end a stream that is open before
        with Client(flowless.client.channel, secret).watch() as watch:
            watch.ready()
            deadline = time.monotonic() + WAIT_SECONDS
            nonce = 0
            ended = ("OK", "")
            while ended == ("OK", ""):
                assert time.monotonic() < deadline, "the stream goes on with an expired secret"
                nonce += 1
                ended = outcome(lambda number=nonce: watch.ping(number))  # type: ignore[misc]
                time.sleep(0.1)
            assert ended == ("UNAUTHENTICATED", "BRIDGE_CREDENTIAL_REFUSED")


def test_a_watcher_that_never_reads_loses_its_place_when_its_bridge_is_revoked(run_dir: Path) -> None:
    with running_flowless(run_dir, max_watchers="1") as flowless:

        def watch() -> None:
            with flowless.client.watch() as watching:
                watching.ready()

        bridge_id, secret = flowless.client.create_bridge(Scope.VALIDATE)
        start = bridge_pb2.WatchRevocationsRequest(start=bridge_pb2.WatchStart())
        with RawHttp2(flowless.process.address, window=0) as attacker:
            attacker.open(WATCH, message=start.SerializeToString(), credential=secret)
            deadline = time.monotonic() + WAIT_SECONDS
            while outcome(watch) != ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS"):
                assert time.monotonic() < deadline, "the attacker has the only place"
            flowless.client.admin.RevokeBridge(admin_pb2.RevokeBridgeRequest(bridge_id=bridge_id))
            deadline = time.monotonic() + WAIT_SECONDS
            while outcome(watch) != ("OK", ""):
                assert time.monotonic() < deadline, "the place is never freed"
                time.sleep(0.1)


def test_a_flood_of_made_up_credentials_takes_no_sidecars_lease(run_dir: Path) -> None:
    with running_system(run_dir, max_staleness_seconds=4.0) as system:
        system.app.register("ada@example.org")
        session_id = system.app.log_in("ada@example.org").session_id
        system.app.validate(session_id)
        flooding = threading.Event()
        seen: Counter[tuple[str, str]] = Counter()

        def flood() -> None:
            with grpc.insecure_channel(system.flowless.address) as channel:
                while not flooding.is_set():
                    made_up = new_bridge_secret(new_bridge_id(os.urandom), os.urandom)
                    seen[outcome(lambda: Client(channel, made_up).denial("x"))] += 1  # noqa: B023 - called at once

        with ThreadPoolExecutor(8) as pool:
            try:
                for _ in range(8):
                    pool.submit(flood)
                deadline = time.monotonic() + 2 * system.app.status().max_staleness.ToTimedelta().total_seconds()
                while time.monotonic() < deadline:
                    answer = system.app.validate(session_id)
                    assert (answer.HasField("session"), answer.freshness.tier) == (True, types_pb2.TIER_LRU)
            finally:
                flooding.set()
        assert {code for code, _ in seen} <= {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}
        assert sum(seen.values()) > 100
