"""Who may not know whether an account exists does not learn it, neither from answers nor from how long they take.

The statistical test compares ranks of interleaved calls, so that neither a slow machine nor a busy one makes it
fail. That it can fail is shown by a Flowless that is broken on purpose.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from flowless.domain.bridges import Scope
from tests.support.flowless import PASSWORD, Client, Flowless, bearer, failure_of, fresh_email, running_flowless
from tests.support.guessing import WRONG, addresses, request, tried
from tests.support.ranks import deviation, how_often_longer
from tests.support.rpc import reason, status_of
from tools.processes import temporary_directory
from trustlayer.v1 import identity_pb2, session_pb2
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub

pytestmark = pytest.mark.long

REQUEST_ID = ("x-request-id", "the-same")
SAMPLES = 30
SURE = 5.0
"""Standard deviations that tell a difference from chance, which goes that far in some millionths of runs."""
MANY = {
    "attempts_free": "100",
    "attempts_failed_per_account_per_day": "10000",
    "attempts_failed_per_ip_per_hour": "1000000",
}
"""What is compared here is what the limits let through."""

BROKEN = """
import flowless.services.credentials as credentials

async def prove(self, found, password, *, action, by, _prove=credentials.UserPasswords.prove):
    if found is None:
        await self.refused("", action=action, by=by)
    return await _prove(self, found, password, action=action, by=by)

credentials.UserPasswords.prove = prove
"""
"""A Flowless that does not hash for a user who does not exist, as the module that Python loads at its start."""


@pytest.fixture(scope="module")
def flowless() -> Iterator[Flowless]:
    with temporary_directory() as directory, running_flowless(directory, password_profile="owasp", **MANY) as running:
        yield running


def refused_logins(flowless: Flowless) -> dict[str, tuple[str, str]]:
    """Every kind of login that is refused: its login name and its password."""
    client = flowless.client
    known, disabled, without = (client.register(user_name=f"name{number}.{random.random()}") for number in range(3))
    client.identity.DisableUser(identity_pb2.DisableUserRequest(user_id=disabled.id))
    with flowless.sql() as database:
        database.execute("UPDATE users SET password_hash = '' WHERE id = ?", (without.id,))
    return {
        "a wrong password": (known.email, WRONG),
        "a wrong password by user name": (known.user_name, WRONG),
        "an unknown address": (fresh_email(), PASSWORD),
        "an unknown user name": ("nobody.of.this.name", PASSWORD),
        "no address at all": ("@", PASSWORD),
        "a disabled user, wrong password": (disabled.email, WRONG),
        "a disabled user, right password": (disabled.email, PASSWORD),
        "a user without a password": (without.email, PASSWORD),
    }


Answer = tuple[grpc.StatusCode, str, Sequence[tuple[str, str | bytes]], Sequence[tuple[str, str | bytes]]]


def whole_answer(call: Callable[[], object]) -> Answer:
    """Everything that a client can see of a refusal."""
    error: Any = failure_of(call)
    return (
        error.code(),
        error.details(),
        tuple(tuple(pair) for pair in error.initial_metadata() or ()),
        tuple(tuple(pair) for pair in error.trailing_metadata() or ()),
    )


def login_answer(client: Client, each: session_pb2.LoginRequest) -> Answer:
    stub = SessionServiceStub(client.channel)
    return whole_answer(lambda: stub.Login(each, timeout=20, metadata=(*bearer(client.secret), REQUEST_ID)))


def test_every_refused_login_has_the_same_answer_to_the_last_byte(flowless: Flowless) -> None:
    answers = {
        name: login_answer(flowless.client, request(login, password, next(addresses())))
        for name, (login, password) in refused_logins(flowless).items()
    }
    assert {name for name, answer in answers.items() if answer != answers["a wrong password"]} == set()


def test_without_a_chosen_request_id_the_answers_differ_in_nothing_but_that(flowless: Flowless) -> None:
    def status(login: str, password: str) -> status_pb2.Status:
        error = failure_of(lambda: flowless.client.sessions.Login(request(login, password, next(addresses()))))
        found = status_of(error)
        kept = [packed for packed in found.details if not packed.type_url.endswith("RequestInfo")]
        assert len(kept) == len(found.details) - 1
        del found.details[:]
        found.details.extend(kept)
        return found

    texts = {status(*login).SerializeToString(deterministic=True) for login in refused_logins(flowless).values()}
    assert len(texts) == 1


def test_an_account_that_has_to_wait_has_the_same_answer_whether_it_exists_or_not(run_dir: Path) -> None:
    with running_flowless(run_dir, attempts_free="1", attempts_failed_per_account_per_day="4") as flowless:
        logins = refused_logins(flowless)
        by_wait, by_account = {}, {}
        for name, (login, password) in logins.items():
            ip = next(addresses())
            by_wait[name] = login_answer(flowless.client, request(login, password, ip))
            # The first is free, the second sets the wait of a second, and the third mostly meets it.
            while by_wait[name][0] is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                by_wait[name] = login_answer(flowless.client, request(login, password, ip))
        for name, (login, password) in logins.items():
            for ip in islice(addresses(), 6):
                tried(flowless.client, login, ip, password)
            by_account[name] = login_answer(flowless.client, request(login, password, next(addresses())))
    assert len(set(map(_without_wait, by_wait.values()))) == 1
    assert len(set(map(_without_wait, by_account.values()))) == 1


def _without_wait(answer: Answer) -> tuple[object, ...]:
    """Leave out how long to wait: it says when the waiting began, which is at another time for each."""
    code, details, initial, trailing = answer
    kept: list[tuple[str, object]] = []
    for key, value in trailing:
        if isinstance(value, bytes):
            found = status_pb2.Status.FromString(value)
            kept.append((key, tuple((d.type_url, d.value) for d in found.details if "RetryInfo" not in d.type_url)))
            assert sum("RetryInfo" in d.type_url for d in found.details) == 1
        else:
            kept.append((key, value))
    return code, details, initial, tuple(kept)


def sampled(client: Client, logins: Mapping[str, tuple[str, str]], count: int = SAMPLES) -> dict[str, list[float]]:
    """Time calls of each kind, interleaved: whatever else the machine does meets all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in logins}
    for _ in range(count):
        for name in random.sample(list(logins), len(logins)):
            each = request(*logins[name], next(addresses()))
            began = time.perf_counter()
            error = failure_of(lambda each=each: client.sessions.Login(each))  # type: ignore[misc]
            times[name].append(time.perf_counter() - began)
            assert reason(error) == "LOGIN_REFUSED"
    return times


def tell_apart(times: Mapping[str, list[float]], reference: str) -> dict[str, float]:
    """Kinds whose times differ from the reference's by more than chance, and how often they are longer."""
    shares = {name: how_often_longer(taken, times[reference]) for name, taken in times.items()}
    chance = SURE * deviation(len(times[reference]))
    return {name: share for name, share in shares.items() if abs(share - 0.5) > chance}


@pytest.mark.timeout(240)
def test_how_long_a_refusal_takes_does_not_tell_why(flowless: Flowless) -> None:
    times = sampled(flowless.client, refused_logins(flowless))
    assert tell_apart(times, "a wrong password") == {}


@pytest.mark.timeout(240)
def test_the_comparison_finds_a_flowless_that_does_not_hash_for_unknown_users(run_dir: Path) -> None:
    (run_dir / "sitecustomize.py").write_text(BROKEN)
    with running_flowless(run_dir, {"PYTHONPATH": str(run_dir)}, password_profile="owasp", **MANY) as broken:
        logins = refused_logins(broken)
        kinds = ("a wrong password", "a disabled user, wrong password", "an unknown address")
        times = sampled(broken.client, {kind: logins[kind] for kind in kinds})
        # Where much else is done at the same time a difference shows in more samples, but it shows.
        while not tell_apart(times, "a wrong password") and len(times["a wrong password"]) < 10 * SAMPLES:
            for kind, more in sampled(broken.client, {kind: logins[kind] for kind in kinds}).items():
                times[kind] += more
    assert set(tell_apart(times, "a wrong password")) == {"an unknown address"}


def test_who_lacks_the_scope_learns_from_registering_and_looking_up_nothing_at_all(flowless: Flowless) -> None:
    """Registering and looking up say whether an address is taken; they are for bridges that may read every user."""
    client = flowless.client
    known, unknown = client.register().email, fresh_email()
    _, secret = client.create_bridge(Scope.SESSIONS, Scope.VALIDATE)
    stub, metadata = IdentityServiceStub(client.channel), (*bearer(secret), REQUEST_ID)

    def register(email: str) -> Answer:
        each = identity_pb2.RegisterUserRequest(email=email, password=PASSWORD)
        return whole_answer(lambda: stub.RegisterUser(each, timeout=20, metadata=metadata))

    def look_up(email: str) -> Answer:
        each = identity_pb2.LookUpUserRequest(login=email)
        return whole_answer(lambda: stub.LookUpUser(each, timeout=20, metadata=metadata))

    for call in (register, look_up):
        assert call(known) == call(unknown)
        assert call(known)[0] is grpc.StatusCode.PERMISSION_DENIED
