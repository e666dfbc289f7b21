"""Two replicas over PostgreSQL and Redis, and three sidecars, all real processes: any call may land anywhere."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.support.flowless import Client
from tests.support.replicas import STALENESS_SECONDS, Deployment, Load, deployment, outcome
from tests.support.system import PASSWORD, App
from trust_core.identifiers import digest
from trustlayer.v1 import types_pb2

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]
ENOUGH_SECONDS = 30.0


@pytest.fixture(scope="module")
def deployed(module_dir: Path) -> Iterator[Deployment]:
    with deployment(module_dir) as running:
        yield running


@pytest.fixture
def clients(deployed: Deployment) -> Iterator[list[Client]]:
    """A bridge on each replica, past the sidecars."""
    with ExitStack() as stack:
        yield [
            Client(stack.enter_context(grpc.insecure_channel(replica.address)), deployed.secret)
            for replica in deployed.replicas
        ]


@pytest.fixture
def session_ids(clients: list[Client]) -> list[str]:
    """Twenty sessions of ten users."""
    users = [clients[0].register() for _ in range(10)]
    return [clients[number % 2].log_in(users[number % 10]).session_id for number in range(20)]


def wait_until_active(deployed: Deployment, session_ids: list[str]) -> None:
    deadline = time.monotonic() + ENOUGH_SECONDS
    for app in deployed.apps:
        for session_id in session_ids:
            while outcome(app, session_id) != "ACTIVE":
                assert time.monotonic() < deadline


def test_a_session_created_on_one_replica_is_valid_on_the_other_and_on_every_sidecar_at_once(
    deployed: Deployment, clients: list[Client]
) -> None:
    for here, there in ((0, 1), (1, 0)):
        login = clients[here].log_in(clients[there].register())
        assert clients[there].denial(login.session_id) == ""
        assert [outcome(app, login.session_id) for app in deployed.apps] == ["ACTIVE"] * 3


@pytest.mark.parametrize("replica", [0, 1])
def test_a_revoke_on_one_replica_is_refused_everywhere_within_the_bound(
    deployed: Deployment, clients: list[Client], session_ids: list[str], replica: int
) -> None:
    wait_until_active(deployed, session_ids)
    login = clients[replica].new_session()
    for app in deployed.apps:
        assert outcome(app, login.session_id) == "ACTIVE"
    revision = clients[replica].revoke(login.session.handle)
    returned = time.monotonic()
    assert clients[1 - replica].denial(login.session_id) == "REVOKED"
    answer = deployed.apps[0].validate(login.session_id, min_revision=revision)
    assert answer.denial.reason == types_pb2.DENIAL_REASON_REVOKED
    for app in deployed.apps:
        while True:
            started = time.monotonic()
            if outcome(app, login.session_id) == "REVOKED":
                break
            assert started < returned + STALENESS_SECONDS
    assert [outcome(app, session_ids[0]) for app in deployed.apps] == ["ACTIVE"] * 3


@pytest.mark.parametrize("replica", [0, 1])
def test_a_revoke_that_waits_on_one_replica_is_refused_everywhere_at_once(
    deployed: Deployment, clients: list[Client], session_ids: list[str], replica: int
) -> None:
    wait_until_active(deployed, session_ids)
    for _ in range(10):
        login = clients[replica].new_session()
        assert [outcome(app, login.session_id) for app in deployed.apps] == ["ACTIVE"] * 3
        barrier = clients[replica].revoke_and_wait(login.session.handle)
        assert [outcome(app, login.session_id) for app in deployed.apps] == ["REVOKED"] * 3
        assert barrier.reached
        assert barrier.applied >= 3


def test_a_revoke_that_waits_does_not_wait_for_a_replica_that_hangs_longer_than_for_its_leases(
    deployed: Deployment, clients: list[Client], session_ids: list[str]
) -> None:
    wait_until_active(deployed, session_ids)
    login = clients[1].new_session()
    wait_until_active(deployed, [login.session_id])
    deployed.replicas[0].signal(signal.SIGSTOP)
    try:
        barrier = clients[1].revoke_and_wait(login.session.handle)
        # Those that watched the hanging replica ask another, or nobody can tell them: none says yes.
        refused = [outcome(app, login.session_id) for app in deployed.apps]
    finally:
        deployed.replicas[0].signal(signal.SIGCONT)
    assert barrier.reached
    assert "ACTIVE" not in refused
    wait_until_active(deployed, session_ids)


def test_a_rolling_restart_of_all_replicas_fails_no_validation_of_a_valid_session(
    deployed: Deployment, session_ids: list[str]
) -> None:
    wait_until_active(deployed, session_ids)
    load = Load(deployed.apps, session_ids)
    with load.running():
        time.sleep(0.5)
        for replica in deployed.replicas:
            assert replica.stop() == 0
            replica.start()
            time.sleep(1.0)
    assert load.other_than_active() == []
    assert {validation.app for validation in load.seen} == {0, 1, 2}


def test_a_killed_replica_fails_no_validation_of_a_valid_session(
    deployed: Deployment, session_ids: list[str]
) -> None:
    wait_until_active(deployed, session_ids)
    load = Load(deployed.apps, session_ids)
    with load.running():
        time.sleep(0.3)
        deployed.replicas[0].kill()
        time.sleep(1.5)
        deployed.replicas[0].start()
        time.sleep(0.5)
    assert load.other_than_active() == []


def test_postgres_that_restarts_costs_answers_only_while_it_is_down(
    deployed: Deployment, clients: list[Client], session_ids: list[str]
) -> None:
    wait_until_active(deployed, session_ids)
    doomed = clients[0].new_session()
    wait_until_active(deployed, [doomed.session_id])
    load = Load(deployed.apps, session_ids)
    with load.running():
        time.sleep(0.3)
        clients[0].revoke(doomed.session.handle)
        down = time.monotonic()
        deployed.postgres.stop()
        time.sleep(STALENESS_SECONDS + 0.5)
        deployed.postgres.start()
        up = time.monotonic()
        assert outcome(deployed.apps[2], session_ids[0]) == "ACTIVE", "the first call after it is back is answered"
        time.sleep(1.5)
    failed = load.other_than_active()
    assert {validation.outcome.partition(":")[0] for validation in failed} == {"UNAVAILABLE"}
    # One that had started before may still have been on its way to storage.
    assert [v for v in failed if v.ended < down or v.started >= up] == []
    assert [outcome(app, doomed.session_id) for app in deployed.apps] == ["REVOKED"] * 3
    wait_until_active(deployed, session_ids)


def test_users_of_one_replica_are_users_of_the_other(clients: list[Client]) -> None:
    user = clients[0].register(user_name="grace.h")
    assert clients[1].log_in(user).session.user.id == user.id
    assert PASSWORD not in str(user)


def from_redis(app: App, session_ids: Sequence[str]) -> bool:
    """Whether Redis answers for one of them now; only the sidecar without room asks."""
    return any(app.validate(session_id).freshness.tier == types_pb2.TIER_REDIS for session_id in session_ids)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENOUGH_SECONDS
    while not condition():
        assert time.monotonic() < deadline


def test_redis_that_is_killed_hangs_or_is_flushed_fails_no_validation_and_revives_no_session(
    deployed: Deployment, clients: list[Client], session_ids: list[str]
) -> None:
    wait_until_active(deployed, session_ids)
    wait_until(lambda: from_redis(deployed.apps[2], session_ids))
    doomed = [clients[number % 2].new_session() for number in range(3)]
    wait_until_active(deployed, [login.session_id for login in doomed])
    load = Load(deployed.apps, session_ids)
    with load.running():
        time.sleep(0.2)
        deployed.redis.pause()
        clients[0].revoke(doomed[0].session.handle)
        time.sleep(0.5)
        deployed.redis.resume()
        time.sleep(0.2)
        deployed.redis.kill()
        clients[1].revoke(doomed[1].session.handle)
        time.sleep(0.5)
        deployed.redis.start()
        time.sleep(0.2)
        with deployed.redis.client() as client:
            client.flushall()
        clients[0].revoke(doomed[2].session.handle)
        time.sleep(STALENESS_SECONDS)
        for login in doomed:
            assert [outcome(app, login.session_id) for app in deployed.apps] == ["REVOKED"] * 3
    assert load.other_than_active() == []
    wait_until(lambda: from_redis(deployed.apps[2], session_ids))


def test_an_attacker_who_can_write_to_redis_revives_no_session_and_becomes_nobody_else(
    deployed: Deployment, clients: list[Client], session_ids: list[str]
) -> None:
    wait_until(lambda: from_redis(deployed.apps[2], session_ids))
    mine, victim = (clients[0].new_session() for _ in range(2))
    for login in (mine, victim):
        for client in clients:
            client.denial(login.session_id, max_staleness=Duration(seconds=1))
    with deployed.redis.client() as redis:
        keys = {login.session_id: f"*{digest(login.session_id).hex()}" for login in (mine, victim)}
        wait_until(lambda: all(list(redis.scan_iter(key)) for key in keys.values()))
        (my_key,), (victims_key,) = (list(redis.scan_iter(key)) for key in keys.values())
        kept, victims = redis.dump(my_key), redis.dump(victims_key)
        revision = clients[0].revoke(mine.session.handle)
        for stolen in (kept, victims):
            redis.restore(my_key, 600_000, stolen, replace=True)
            for client in clients:
                answer = client.validate(mine.session_id, min_revision=revision, max_staleness=Duration(seconds=1))
                assert answer.denial.reason == types_pb2.DENIAL_REASON_REVOKED
                assert answer.freshness.tier == types_pb2.TIER_DATABASE
        time.sleep(0.3)  # without min_revision: both replicas have read the row by now
        redis.restore(my_key, 600_000, kept, replace=True)
        assert [client.denial(mine.session_id, max_staleness=Duration(seconds=1)) for client in clients] == [
            "REVOKED"
        ] * 2


def test_nothing_in_redis_names_a_person_or_a_session_id(
    deployed: Deployment, clients: list[Client], session_ids: list[str]
) -> None:
    user = clients[0].register(name="Augusta", last_name="Byron")
    login = clients[0].log_in(user)
    clients[1].denial(login.session_id)
    with deployed.redis.client() as redis:
        wait_until(lambda: bool(list(redis.scan_iter(f"*{digest(login.session_id).hex()}"))))
        sessions = b"".join(key + b"".join(redis.hgetall(key).values()) for key in redis.scan_iter(_type="hash"))
        everything = sessions + b"".join(key + (redis.get(key) or b"") for key in redis.scan_iter(_type="string"))
    for text in (login.session_id, user.email, user.id, "Augusta", "Byron", deployed.secret):
        assert text.encode() not in everything
