"""Both programs, watched by a real Prometheus, while an app works with them and things go wrong: for dashboards."""

import itertools
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration

from tests.support.everything import Everything, everything
from tests.support.flowless import Client, outcome
from tests.support.load import Load
from tests.support.prometheus import PrometheusServer
from tests.support.system import BROWSER, PASSWORD, App
from tools.dashboards import Panel
from trust_core.identifiers import new_session_id
from trustlayer.v1 import session_pb2, trust_token_pb2, types_pb2, validator_pb2
from trustlayer.v1.trust_token_pb2_grpc import TrustTokenServiceStub

RATE: Final = "5s"
"""What stands for Grafana's `$__rate_interval` where scrapes are a second apart."""
_SETTINGS: Final = {
    "attempts_free": "2",
    "housekeeping_interval_seconds": "2",
    "log_retention_seconds": "60",
    "hashing_queue": "8",
    "password_profile": "owasp",
    "redis_timeout_seconds": "0.1",
}
_CALL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Watched:
    """A run that Prometheus has seen."""

    prometheus: PrometheusServer
    pair: Everything
    began: float
    marks: list[tuple[float, str]]

    def of(self, panel: Panel, *, end: float, step: float) -> dict[str, list[tuple[float, float]]]:
        """The panel's series by their legends, as Grafana would draw them."""
        drawn: dict[str, list[tuple[float, float]]] = {}
        for legend, expression in panel.expressions.items():
            query = expression.replace("$__rate_interval", RATE).replace("$job", ".*").replace("$instance", ".*")
            for labels, points in self.prometheus.series(query, begin=self.began, end=end, step=step):
                drawn[_named(legend, labels)] = [point for point in points if point[1] == point[1]]
        return {legend: points for legend, points in drawn.items() if points}


def _named(legend: str, labels: Any) -> str:
    named = legend
    for label, value in labels.items():
        named = named.replace("{{" + label + "}}", value)
    return named


class _Work:
    """What an app, proxies and strangers do, again and again until told to stop, each kind in a thread."""

    def __init__(self, pair: Everything, channel: grpc.Channel, *, session_id: str) -> None:
        self._pair = pair
        self._session_id = session_id
        self._app = App(channel)
        self._stop = threading.Event()
        self._number = 0
        kinds = (
            (self._people, 0.3),
            (self._guesser, 0.5),
            (self._proxy, 0.1),
            (self._bridge, 0.1),
            (self._strangers, 0.7),
        )
        self._threads = [threading.Thread(target=self._again, args=kind, daemon=True) for kind in kinds]

    def _again(self, act: Callable[[], None], seconds: float) -> None:
        while not self._stop.wait(seconds):
            outcome(act)

    def _people(self) -> None:
        self._number += 1
        email = f"person{self._number}@example.org"
        user = self._app.register(email)
        login = self._app.log_in(email)
        for _ in range(20):
            self._app.validate(login.session_id)
        link = trust_token_pb2.IssueTrustTokenRequest(
            purpose="magic_link",
            subject=email,
            audience="shop",
            lifetime=Duration(seconds=600),
            delivery=trust_token_pb2.TRUST_TOKEN_DELIVERY_MAIL,
        )
        TrustTokenServiceStub(self._app.channel).IssueTrustToken(link, timeout=_CALL_SECONDS)
        if self._number % 2:
            elsewhere = types_pb2.RequestContext(
                client_ip="192.0.2.99", device_fingerprint="device", user_agent="agent"
            )
            asked = validator_pb2.ValidateRequest(
                session_id=login.session_id,
                context=elsewhere,
                route="account",
                mode=types_pb2.VALIDATION_MODE_ADVANCED,
            )
            self._app.validator.Validate(asked, timeout=_CALL_SECONDS)
        revoke = session_pb2.RevokeUserSessionsRequest(user_id=user.id, wait=session_pb2.REVOKE_WAIT_ALL_SIDECARS)
        self._app.sessions.RevokeUserSessions(revoke, timeout=_CALL_SECONDS)
        self._app.validate(login.session_id)

    def _guesser(self) -> None:
        wrong = session_pb2.LoginRequest(login="person1@example.org", password="guess", context=BROWSER)
        self._app.sessions.Login(wrong, timeout=_CALL_SECONDS)

    def _bridge(self) -> None:
        """Ask Flowless itself about a session that it has been asked about before: Redis knows it."""
        with self._pair.stranger() as channel:
            Client(channel, self._pair.secret).validate(self._session_id, max_staleness=Duration(seconds=1))

    def _proxy(self) -> None:
        session_id = new_session_id(os.urandom)
        for path in ("/account/7", "/nowhere"):
            request = urllib.request.Request(
                f"http://127.0.0.1:{self._pair.forward_auth}/forward-auth",
                headers={
                    "x-forwarded-method": "GET",
                    "x-forwarded-uri": path,
                    "authorization": f"Bearer {session_id}",
                },
            )
            try:
                urllib.request.urlopen(request, timeout=_CALL_SECONDS).close()
            except urllib.error.HTTPError as error:
                error.close()
            except OSError:
                pass
        self._app.validate("rubbish")

    def _strangers(self) -> None:
        with self._pair.stranger() as channel:
            for method in ("/trustlayer.v1.AdminService/ListBridges", "/invented.Service/Rpc"):
                call: Any = channel.unary_unary(method)
                outcome(partial(call, b"", timeout=1))

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after what is being done."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def storm(self, *, seconds: float, people: int = 24) -> None:
        """Log in with many people at once, more than there is room for."""
        until = time.monotonic() + seconds
        numbers = itertools.count()

        def log_in() -> None:
            while time.monotonic() < until:
                # Nobody's name costs a hash as well, and has no attempts that were counted.
                name = f"nobody{next(numbers)}@example.org"
                request = session_pb2.LoginRequest(login=name, password=PASSWORD, context=BROWSER)
                outcome(partial(self._app.sessions.Login, request, timeout=_CALL_SECONDS))
                time.sleep(0.02)

        threads = [threading.Thread(target=log_in, daemon=True) for _ in range(people)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@contextmanager
def watched_run(directory: Path, *, quiet_seconds: float, fault_seconds: float) -> Iterator[Watched]:
    """Work for a while, then a storm of logins, Redis gone, Flowless gone, each with a quiet time behind it."""
    with everything(directory, **_SETTINGS) as pair:
        targets = {"flowless": [pair.flowless_metrics], "bridge-sidecar": [pair.sidecar_metrics]}
        with (
            PrometheusServer(directory=directory, targets=targets) as prometheus,
            grpc.insecure_channel(pair.sidecar.address) as channel,
        ):
            email = "steady@example.org"
            user = pair.app.register(email)
            login = pair.app.log_in(email)
            watched = Watched(prometheus, pair, time.time(), [])
            work = _Work(pair, channel, session_id=login.session_id)

            def mark(what: str) -> None:
                watched.marks.append((time.time(), what))

            work.start()
            try:
                with Load(channel, session_id=login.session_id, user_id=user.id):
                    time.sleep(quiet_seconds)
                    mark("a storm of logins")
                    work.storm(seconds=fault_seconds)
                    mark("over")
                    time.sleep(quiet_seconds)
                    mark("Redis killed")
                    pair.redis.kill()
                    time.sleep(fault_seconds)
                    pair.redis.start()
                    mark("Redis back")
                    time.sleep(quiet_seconds)
                    mark("Flowless killed")
                    pair.flowless.kill()
                    time.sleep(fault_seconds)
                    pair.flowless.start()
                    mark("Flowless back")
                    time.sleep(quiet_seconds)
            finally:
                work.stop()
            yield watched
