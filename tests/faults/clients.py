"""Apps that go on whatever happens: they log in, revoke and validate, and write down what they saw and when.

Every call has a deadline, every thread ends when it is told to. Times are of `time.monotonic_ns`, one clock for all.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc

from tests.faults.history import Event, Login, Outcome, Revoke, Validation
from tests.faults.sessions import Account, Doomed, Sessions, retention_ns
from tests.faults.world import CHANNEL_OPTIONS, World
from tests.support.flowless import bearer, code_of, fresh_email
from tests.support.system import BROWSER, PASSWORD, App
from trustlayer.v1 import identity_pb2, session_pb2, types_pb2, validator_pb2
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub

PATIENCE_SECONDS: Final = (2.5, 0.5)
"""Deadlines of a sidecar's validating threads, in turn. Those that are impatient go on asking what is in the cache
while the others wait for an answer from upstream."""
WRITE_SECONDS: Final = 2.0
WAIT_SECONDS: Final = 4.0
"""Longer than a lease: then a barrier is reached although a sidecar is cut off."""
BULK_SECONDS: Final = 30.0
LIVE_SESSIONS: Final = 16
SESSIONS_OF_AN_ACCOUNT: Final = 2
COLD_AT_ONCE: Final = 3
COLD_SECONDS: Final = 0.5
"""For as long as this, a link that is slow keeps answers back."""
BY_USER: Final = 0.3
THROUGH_A_SIDECAR: Final = 0.25
WAIT: Final = session_pb2.REVOKE_WAIT_ALL_SIDECARS
AFTER_A_FAILURE_SECONDS: Final = 0.01
ASKED_AGAIN: Final = 0.5
"""Share of the questions about a session to which this sidecar said yes last time."""
REMEMBERED: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much clients do."""

    revokes_per_second: float = 30.0
    revokers: int = 2
    validators: int = 2
    """Threads for each sidecar."""
    stock: int = 150
    """Revokes that there are sessions for before it begins."""


class Clients:
    """The threads of one schedule. What they saw is in `events`, complete once `running` has ended."""

    def __init__(self, world: World, seed: int, load: Load, stack: ExitStack) -> None:
        self._seed = seed
        self._load = load
        self._staleness = world.plan.max_staleness_seconds
        self._metadata = bearer(world.secret)
        self._names = [f"sidecar-{number}" for number in range(world.shape.sidecars)]
        self._apps = [App(_channel(stack, sidecar.address)) for sidecar in world.sidecars]
        self._replicas = [_channel(stack, replica.address) for replica in world.replicas]
        self._ended = threading.Event()
        self._accounts: list[Account] = []  # of nobody who is doomed now; append and pop are atomic
        self.sessions = Sessions(retention_ns(self._staleness))
        self.events: list[Event] = []  # append is atomic
        self.failures: list[BaseException] = []
        """What ended a thread that should not have ended: a fault of this test."""

    # Beforehand: sessions, while everything is whole.

    def prepare(self) -> None:
        """Log in what the run needs. Raises `grpc.RpcError`."""
        draw = random.Random(self._seed)
        shared = self._register(BULK_SECONDS)
        self.sessions.live = [self._log_in(draw, shared, BULK_SECONDS).session_id for _ in range(LIVE_SESSIONS)]
        self._shared = self._register(BULK_SECONDS)
        self._in_threads([self._stock] * 3)

    def _stock(self) -> None:
        draw = random.Random()
        while self.sessions.waiting < self._load.stock:
            self._doom(draw, BULK_SECONDS)

    def _register(self, timeout: float) -> Account:
        email = fresh_email()
        request = identity_pb2.RegisterUserRequest(email=email, password=PASSWORD)
        stub = IdentityServiceStub(self._replicas[0])
        user = stub.RegisterUser(request, timeout=timeout, metadata=self._metadata).user
        return Account(user.id, email)

    def _log_in(self, draw: random.Random, account: Account, timeout: float) -> session_pb2.LoginResponse:
        request = session_pb2.LoginRequest(login=account.email, password=PASSWORD, context=BROWSER)
        stub = SessionServiceStub(draw.choice(self._replicas))
        started = time.monotonic_ns()
        made = stub.Login(request, timeout=timeout, metadata=self._metadata)
        ended = time.monotonic_ns()
        self.events.append(Login(session=made.session_id, started_ns=started, ended_ns=ended))
        return made

    def _doom(self, draw: random.Random, timeout: float) -> None:
        """Make something to revoke: a session of an account that many share, or an account's sessions."""
        if draw.random() >= BY_USER:
            made = self._log_in(draw, self._shared, timeout)
            self.sessions.add(Doomed(session_ids=(made.session_id,), handle=made.session.handle))
            return
        try:
            account = self._accounts.pop()
        except IndexError:
            account = self._register(timeout)
        ids = tuple(self._log_in(draw, account, timeout).session_id for _ in range(SESSIONS_OF_AN_ACCOUNT))
        self.sessions.add(Doomed(session_ids=ids, account=account))

    # The threads.

    def _work(self) -> list[Callable[[], None]]:
        load = self._load
        return [
            self._top_up,
            self._revoke_cold_until_ended,
            self._revoke_and_wait_until_ended,
            *(partial(self._revoke_until_ended, number) for number in range(load.revokers)),
            *(
                partial(self._validate_until_ended, sidecar, number)
                for sidecar in range(len(self._apps))
                for number in range(load.validators)
            ),
        ]

    def _top_up(self) -> None:
        draw = random.Random(self._seed + 1)
        while not self._ended.is_set():
            if self.sessions.waiting >= self._load.stock:
                self._ended.wait(0.02)
                continue
            try:
                self._doom(draw, WRITE_SECONDS)
            except grpc.RpcError:
                self._ended.wait(AFTER_A_FAILURE_SECONDS)

    def _revoke_until_ended(self, number: int) -> None:
        """Revoke what is in the caches."""
        draw = random.Random(self._seed + 100 + number)
        pause = self._load.revokers / self._load.revokes_per_second
        due = time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - 1.0) + pause * draw.uniform(0.5, 1.5)
            if doomed := self.sessions.take():
                self._revoke(draw, doomed)

    def _revoke_cold_until_ended(self) -> None:
        """Revoke what nobody asked about before, while the first questions about it are under way."""
        draw = random.Random(self._seed + 99)
        while not self._ended.wait(draw.uniform(0, 0.1)):
            few = [doomed for _ in range(COLD_AT_ONCE) if (doomed := self.sessions.take(cold=True))]
            for doomed in few:
                self._ended.wait(draw.uniform(0, COLD_SECONDS / COLD_AT_ONCE))
                self._revoke(draw, doomed)

    def _revoke_and_wait_until_ended(self) -> None:
        """Revoke and wait for all sidecars, beside the others: while one is cut off, it takes as long as a lease."""
        draw = random.Random(self._seed + 98)
        while not self._ended.wait(draw.uniform(0, 0.1)):
            if doomed := self.sessions.take():
                self._revoke(draw, doomed, waits=True)

    def _revoke(self, draw: random.Random, doomed: Doomed, *, waits: bool = False) -> None:
        through_sidecar = draw.random() < THROUGH_A_SIDECAR
        stub = (
            draw.choice(self._apps).sessions if through_sidecar else SessionServiceStub(draw.choice(self._replicas))
        )
        options: dict[str, Any] = {
            "timeout": WAIT_SECONDS if waits else WRITE_SECONDS,
            "metadata": () if through_sidecar else self._metadata,
        }
        wait = WAIT if waits else session_pb2.REVOKE_WAIT_UNSPECIFIED
        started = time.monotonic_ns()
        answer: Any = None
        with suppress(grpc.RpcError):
            if doomed.account is None:
                one = session_pb2.RevokeSessionRequest(handle=doomed.handle, wait=wait)
                answer = stub.RevokeSession(one, **options)
            else:
                all_of_user = session_pb2.RevokeUserSessionsRequest(user_id=doomed.account.user_id, wait=wait)
                answer = stub.RevokeUserSessions(all_of_user, **options)
        self.events.append(
            Revoke(
                sessions=frozenset(doomed.session_ids),
                started_ns=started,
                ended_ns=time.monotonic_ns() if answer is not None else None,
                revision=answer.revision if answer is not None else 0,
                barrier_reached=answer is not None and answer.barrier.reached,
            )
        )
        if answer is None:
            if doomed.account is not None:
                doomed.account.usable = False
            self.sessions.put_back(doomed)
            self._ended.wait(AFTER_A_FAILURE_SECONDS)
            return
        self.sessions.revoked(doomed, answer.revision)
        if doomed.account is not None and doomed.account.usable:
            self._accounts.append(doomed.account)

    def _validate_until_ended(self, sidecar: int, number: int) -> None:
        draw = random.Random(self._seed + 10_000 * (sidecar + 1) + number)
        stub, name = self._apps[sidecar].validator, self._names[sidecar]
        patience = PATIENCE_SECONDS[number % len(PATIENCE_SECONDS)]
        active: dict[str, None] = {}  # whose last answer was yes, the latest last: who else would be a late yes?
        while not self._ended.is_set():
            if active and draw.random() < ASKED_AGAIN:
                session, revoked = draw.choice(list(active)), False
            else:
                session, revoked = self.sessions.choose(draw)
            demanded = self.sessions.last_revision if draw.random() < (0.1 if revoked else 0.01) else 0
            validation = validate(stub, name, session, demanded, patience)
            self.events.append(validation)
            if validation.outcome is not Outcome.UNAVAILABLE:
                active.pop(session, None)
            if validation.outcome is Outcome.ACTIVE:
                active[session] = None
                if len(active) > REMEMBERED:
                    del active[next(iter(active))]
            elif validation.outcome is Outcome.UNAVAILABLE:
                self._ended.wait(AFTER_A_FAILURE_SECONDS)

    def _in_threads(self, work: list[Callable[[], None]]) -> None:
        threads = [threading.Thread(target=self._guarded, args=(one,), daemon=True) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for the threads
            self.failures.append(error)
            self._ended.set()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """All of them at work during the block."""
        everybody = threading.Thread(
            target=self._guarded, args=(lambda: self._in_threads(self._work()),), daemon=True
        )
        everybody.start()
        try:
            yield
        finally:
            self._ended.set()
            everybody.join()
        if self.failures:
            raise self.failures[0]


def validate(stub: Any, sidecar: str, session: str, min_revision: int, timeout: float) -> Validation:
    """Ask a sidecar, and say what came of it and when."""
    request = validator_pb2.ValidateRequest(
        session_id=session, mode=types_pb2.VALIDATION_MODE_STRICT, context=BROWSER, min_revision=min_revision
    )
    outcome, reason, revision = Outcome.UNAVAILABLE, "", 0
    started = time.monotonic_ns()
    try:
        answer = stub.Validate(request, timeout=timeout)
        ended = time.monotonic_ns()
    except grpc.RpcError as error:
        ended = time.monotonic_ns()
        reason = code_of(error)
    else:
        outcome, revision = Outcome.ACTIVE, answer.freshness.revision
        if not answer.HasField("session"):
            outcome, reason = Outcome.DENIED, types_pb2.DenialReason.Name(answer.denial.reason)
    return Validation(
        session=session,
        sidecar=sidecar,
        started_ns=started,
        ended_ns=ended,
        outcome=outcome,
        reason=reason,
        revision=revision,
        min_revision=min_revision,
    )


def _channel(stack: ExitStack, address: str) -> grpc.Channel:
    # Not shared by gRPC with channels of other schedules to the same address.
    options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    return stack.enter_context(grpc.insecure_channel(address, options=options))


@contextmanager
def clients_of(world: World, seed: int, load: Load) -> Iterator[Clients]:
    """Make clients and what they need; their channels end with the block."""
    with ExitStack() as stack:
        clients = Clients(world, seed, load, stack)
        clients.prepare()
        yield clients
