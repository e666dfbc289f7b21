"""A sidecar that restarts serves hits before its first miss, and none of a session that ended meanwhile."""

from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.flowless import Client, outcome
from tests.support.system import App, running_system
from trustlayer.v1 import bridge_pb2, types_pb2


def _wait_until_serving(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    while health.Check(health_pb2.HealthCheckRequest(), timeout=10).status != health_pb2.HealthCheckResponse.SERVING:
        pass


def test_a_sidecar_that_was_killed_serves_hits_before_its_first_miss(run_dir: Path) -> None:
    with running_system(run_dir) as system:
        system.app.register("ada@example.org")
        logins = [system.app.log_in("ada@example.org") for _ in range(5)]
        for login in logins:
            system.app.validate(login.session_id)
        system.sidecar.kill()
        secret = system.flowless.create_bridge("direct", ("validate", "sessions")).secret
        with grpc.insecure_channel(system.flowless.address) as channel:
            revision = Client(channel, secret).revoke(logins[0].session.handle)
        system.sidecar.start()
        with grpc.insecure_channel(system.sidecar.address) as channel:
            _wait_until_serving(channel)
            app = App(channel)
            assert app.status().prewarmed_sessions == 4
            for login in logins[1:]:
                answer = app.validate(login.session_id)
                assert (answer.HasField("session"), answer.freshness.tier) == (True, types_pb2.TIER_LRU)
            assert (app.status().hits, app.status().misses) == (4, 0)
            refused = app.validate(logins[0].session_id, min_revision=revision)
            assert refused.denial.reason == types_pb2.DENIAL_REASON_REVOKED


def test_a_bridge_is_given_its_own_sessions_only_and_a_bounded_number(run_dir: Path) -> None:
    with running_system(run_dir) as system:
        system.app.register("ada@example.org")
        login = system.app.log_in("ada@example.org")
        scopes = ("validate", "sessions", "identity")
        secrets = [system.flowless.create_bridge(name, scopes).secret for name in ("mine", "other")]
        with grpc.insecure_channel(system.flowless.address) as channel:
            mine, other = (Client(channel, secret) for secret in secrets)
            made = [mine.new_session() for _ in range(3)]
            given = list(mine.bridge.PrewarmSessions(bridge_pb2.PrewarmSessionsRequest(limit=10)))
            assert {one.session.session.handle for one in given} == {one.session.handle for one in made}
            assert all(one.session.HasField("binding") for one in given)
            assert login.session.handle not in {one.session.session.handle for one in given}
            assert list(other.bridge.PrewarmSessions(bridge_pb2.PrewarmSessionsRequest(limit=10))) == []
            assert len(list(mine.bridge.PrewarmSessions(bridge_pb2.PrewarmSessionsRequest(limit=2)))) == 2
            for limit in (0, -1, 10_001):
                request = bridge_pb2.PrewarmSessionsRequest(limit=limit)
                assert outcome(lambda: next(mine.bridge.PrewarmSessions(request))) == (  # noqa: B023 - called at once
                    "INVALID_ARGUMENT",
                    "INVALID_FIELD",
                )
