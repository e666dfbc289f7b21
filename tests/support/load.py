"""An app that never stops asking: what it is told while something is replaced under it."""

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Self

import grpc

from tests.support.flowless import outcome
from tests.support.system import CALL_SECONDS, App
from trust_core.identifiers import new_session_id
from trustlayer.v1 import identity_pb2, session_pb2, types_pb2

WAIT_SECONDS = 30.0


class Load:
    """Hits, misses and relayed calls, one after the other in a thread for each kind; every failure is kept.

    With an e-mail address also logins, each of which is validated, revoked and refused.
    """

    def __init__(self, channel: grpc.Channel, *, session_id: str, user_id: str, email: str = "") -> None:
        app = App(channel)
        self._kinds: dict[str, Callable[[], None]] = {
            "hit": lambda: _expect(app.validate(session_id).HasField("session")),
            # An id that nobody knows is asked upstream each time, and the answer has to be just that.
            "miss": lambda: _expect(
                app.validate(new_session_id(os.urandom)).denial.reason == types_pb2.DENIAL_REASON_UNKNOWN
            ),
            "relayed": lambda: _expect(
                app.identity.GetUser(identity_pb2.GetUserRequest(user_id=user_id), timeout=10).user.id == user_id
            ),
        }
        if email:
            self._kinds["login and revoke"] = lambda: log_in_and_revoke(app, email)
        self.done: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str, str]] = Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=kind, daemon=True) for kind in self._kinds.items()]

    def _run(self, kind: str, ask: Callable[[], None]) -> None:
        while not self._stop.is_set():
            ended = outcome(ask)
            if ended == ("OK", ""):
                self.done[kind] += 1
            else:
                self.failures[(kind, *ended)] += 1
            time.sleep(0.002)  # leave the machine to the programs

    def goes_on(self, rounds: int = 20) -> None:
        """Wait until each kind was answered so many times more."""
        before, deadline = Counter(self.done), time.monotonic() + WAIT_SECONDS
        while not all(self.done[kind] >= before[kind] + rounds for kind in self._kinds):
            assert time.monotonic() < deadline, (self.done, self.failures)
            time.sleep(0.01)

    def until(self, condition: Callable[[], bool]) -> None:
        """Let it go on until something has happened."""
        deadline = time.monotonic() + WAIT_SECONDS
        for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def log_in_and_revoke(app: App, email: str) -> None:
    """Log in, use the session, revoke it, and find it refused."""
    login = app.log_in(email)
    _expect(app.validate(login.session_id).HasField("session"))
    request = session_pb2.RevokeSessionRequest(handle=login.session.handle)
    revision = app.sessions.RevokeSession(request, timeout=CALL_SECONDS).revision
    refused = app.validate(login.session_id, min_revision=revision)
    _expect(refused.denial.reason == types_pb2.DENIAL_REASON_REVOKED)


def _expect(told: bool) -> None:
    assert told
