"""Apps that do the same all day: they log in, validate, rotate and revoke at fixed rates, through several sidecars.

What they see is judged by `tests.faults.history` as the run goes on, in windows, so that a run of hours needs no more
memory than one of minutes.
"""

import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import grpc

from tests.faults.clients import validate
from tests.faults.history import Bounds, Event, Login, Outcome, Report, Revoke, Validation, check
from tests.faults.sessions import retention_ns
from tests.faults.world import CHANNEL_OPTIONS, World
from tests.support.flowless import code_of, fresh_email
from tests.support.system import BROWSER, PASSWORD, App
from trust_core.identifiers import new_session_id
from trustlayer.v1 import identity_pb2, session_pb2

T = TypeVar("T")
CALL_SECONDS: Final = 2.5
ACCOUNTS: Final = 20
POOL: Final = 120
"""Sessions that are live; fewer for each account than one may have."""
LATE_SECONDS: Final = 1.0
"""Who is further behind than this, because calls took long, does not make up for it."""
_UNKNOWN: Final = 0.05
_REVOKED: Final = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Calls a second, of all sidecars together."""

    logins: float = 4.0
    validations: float = 80.0
    revocations: float = 2.0
    rotations: float = 1.0
    user_revocations: float = 0.2

    def scaled(self, factor: float) -> "Rates":
        """Return other rates of everything."""
        return replace(
            self,
            validations=self.validations * factor,
            logins=self.logins * factor,
            revocations=self.revocations * factor,
            rotations=self.rotations * factor,
            user_revocations=self.user_revocations * factor,
        )

    @property
    def ended_sessions(self) -> float:
        """Sessions that come, and go, each second."""
        return self.logins + self.rotations + 2 * self.user_revocations


@dataclass(frozen=True, slots=True)
class _Live:
    session_id: str
    handle: str


@dataclass(slots=True)
class _Sessions:
    """Which sessions there are. One lock; nobody holds it during a call."""

    retention_ns: int
    live: deque[_Live] = field(default_factory=deque)
    revoked: deque[tuple[int, str]] = field(default_factory=deque)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, session: _Live) -> None:
        with self.lock:
            self.live.append(session)

    def take(self) -> _Live | None:
        """Take the oldest out: who has it may end it."""
        with self.lock:
            return self.live.popleft() if self.live else None

    def ended(self, *session_ids: str) -> None:
        until = time.monotonic_ns() + self.retention_ns
        with self.lock:
            self.revoked.extend((until, session_id) for session_id in session_ids)

    def choose(self, draw: random.Random) -> str:
        """Draw one to ask about."""
        where = draw.random()
        with self.lock:
            now = time.monotonic_ns()
            while self.revoked and self.revoked[0][0] < now:
                self.revoked.popleft()
            if where < _REVOKED and self.revoked:
                return draw.choice(self.revoked)[1]
            if where > _UNKNOWN + _REVOKED and self.live:
                return draw.choice(self.live).session_id
        return new_session_id(os.urandom)


class Clients:
    """The threads. `counts` is by call and how it ended; `report` is complete once `at_work` has ended."""

    def __init__(self, world: World, rates: Rates, stack: ExitStack) -> None:
        self._apps = [
            App(stack.enter_context(grpc.insecure_channel(sidecar.address, options=CHANNEL_OPTIONS)))
            for sidecar in world.sidecars
        ]
        self._rates = rates
        self._bounds = Bounds(max_staleness_ns=round(world.plan.max_staleness_seconds * 1e9))
        self._sessions = _Sessions(retention_ns(world.plan.max_staleness_seconds))
        self._accounts = [self._register() for _ in range(ACCOUNTS)]
        self._ended = threading.Event()
        self._events: deque[Event] = deque()  # append and popleft are atomic
        self._windows: deque[list[Event]] = deque(maxlen=3)
        self.counts: Counter[tuple[str, str]] = Counter()
        self._count_lock = threading.Lock()
        self.report = Report()
        self.failures: list[BaseException] = []
        """What ended a thread that should not have ended: a fault of this test."""

    def _register(self) -> tuple[str, str]:
        email = fresh_email()
        request = identity_pb2.RegisterUserRequest(email=email, password=PASSWORD)
        return self._apps[0].identity.RegisterUser(request, timeout=30).user.id, email

    def _work(self) -> Iterator[tuple[Callable[[random.Random], None], float]]:
        """Each kind of call, and how often a thread does it. More threads where calls may have to wait."""
        rates = self._rates
        for do, rate, threads in (
            (self._log_in, rates.logins, 3),
            (self._validate, rates.validations, 9),
            (self._revoke, rates.revocations, 2),
            (self._rotate, rates.rotations, 2),
            (self._revoke_user, rates.user_revocations, 1),
        ):
            for _ in range(threads):
                yield do, rate / threads

    def _repeat(self, do: Callable[[random.Random], None], rate: float) -> None:
        draw = random.Random()
        due = time.monotonic() + draw.random() / rate
        try:
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                due = max(due, time.monotonic() - LATE_SECONDS) + 1 / rate
                do(draw)
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for the threads
            self.failures.append(error)
            self._ended.set()

    def _call(self, name: str, call: Callable[[], T]) -> T | None:
        """Make a call and count it; None when it failed."""
        code, answer = "OK", None
        try:
            answer = call()
        except grpc.RpcError as error:
            code = code_of(error)
        self._count(name, code)
        return answer

    def _count(self, name: str, ended: str) -> None:
        with self._count_lock:
            self.counts[name, ended] += 1

    def _new_session(self, draw: random.Random, email: str) -> _Live | None:
        request = session_pb2.LoginRequest(login=email, password=PASSWORD, context=BROWSER)
        stub = draw.choice(self._apps).sessions
        started = time.monotonic_ns()
        made = self._call("Login", lambda: stub.Login(request, timeout=CALL_SECONDS))
        if made is None:
            return None
        self._events.append(Login(session=made.session_id, started_ns=started, ended_ns=time.monotonic_ns()))
        return _Live(made.session_id, made.session.handle)

    def _log_in(self, draw: random.Random) -> None:
        if made := self._new_session(draw, draw.choice(self._accounts)[1]):
            self._sessions.add(made)
        while len(self._sessions.live) > POOL:
            self._revoke(draw)

    def _validate(self, draw: random.Random) -> None:
        number = draw.randrange(len(self._apps))
        session = self._sessions.choose(draw)
        validation = validate(self._apps[number].validator, f"sidecar-{number}", session, 0, CALL_SECONDS)
        self._events.append(validation)
        ended = validation.reason if validation.outcome is Outcome.UNAVAILABLE else validation.outcome
        self._count("Validate", ended)

    def _ending(self, sessions: Sequence[_Live], name: str, call: Callable[[], int]) -> bool:
        """Make a call that ends these sessions and returns its revision."""
        ids = frozenset(session.session_id for session in sessions)
        started = time.monotonic_ns()
        revision = self._call(name, call)
        ended = None if revision is None else time.monotonic_ns()
        self._events.append(Revoke(sessions=ids, started_ns=started, ended_ns=ended, revision=revision or 0))
        self._sessions.ended(*ids)
        return revision is not None

    def _revoke(self, draw: random.Random) -> None:
        if not (session := self._sessions.take()):
            return
        stub = draw.choice(self._apps).sessions
        request = session_pb2.RevokeSessionRequest(handle=session.handle)
        self._ending([session], "RevokeSession", lambda: stub.RevokeSession(request, timeout=CALL_SECONDS).revision)

    def _rotate(self, draw: random.Random) -> None:
        if not (session := self._sessions.take()):
            return
        stub = draw.choice(self._apps).sessions
        request = session_pb2.RotateSessionRequest(session_id=session.session_id)
        made: list[_Live] = []

        def rotate() -> int:
            started = time.monotonic_ns()
            answer = stub.RotateSession(request, timeout=CALL_SECONDS)
            ended = time.monotonic_ns()
            self._events.append(Login(session=answer.session_id, started_ns=started, ended_ns=ended))
            made.append(_Live(answer.session_id, answer.session.handle))
            return int(answer.revision)

        if self._ending([session], "RotateSession", rotate):
            self._sessions.add(made[0])

    def _revoke_user(self, draw: random.Random) -> None:
        """End all sessions of a user whom nobody else logs in."""
        try:
            user_id, email = self._register()
        except grpc.RpcError as error:
            self._count("RegisterUser", code_of(error))
            return
        made = [session for _ in range(2) if (session := self._new_session(draw, email))]
        for session in made:
            self._events.append(validate(self._apps[0].validator, "sidecar-0", session.session_id, 0, CALL_SECONDS))
        stub = draw.choice(self._apps).sessions
        request = session_pb2.RevokeUserSessionsRequest(user_id=user_id)
        self._ending(
            made, "RevokeUserSessions", lambda: stub.RevokeUserSessions(request, timeout=CALL_SECONDS).revision
        )

    def look(self) -> None:
        """Judge what was seen a window ago: what was under way then is known now. Not by several threads at once."""
        self._windows.append([self._events.popleft() for _ in range(len(self._events))])
        around = [event for window in self._windows for event in window if not isinstance(event, Validation)]
        middle = self._windows[-2] if len(self._windows) > 1 else []
        self.report.add(check([*around, *(e for e in middle if isinstance(e, Validation))], self._bounds))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """All of them at work during the block."""
        threads = [threading.Thread(target=self._repeat, args=work, daemon=True) for work in self._work()]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()
            self.look()
            self.look()
        if self.failures:
            raise self.failures[0]
