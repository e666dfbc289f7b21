"""Metrics of both programs as real processes, with every part on: what they count, and what never becomes a label."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

import bridge_sidecar.metrics
import flowless.adapters.metrics
from tests.support.everything import Everything, everything
from tests.support.flowless import Client, bearer, fresh_email, outcome
from tests.support.metrics import Scrape
from tests.support.system import BROWSER, PASSWORD
from trust_core import metric_families
from trust_core.identifiers import new_session_id
from trustlayer.v1 import bridge_pb2, session_pb2, types_pb2, validator_pb2

CALL_SECONDS = 20.0


@pytest.fixture(scope="module")
def pair(module_dir: Path) -> Iterator[Everything]:
    with everything(module_dir, attempts_free="3") as running:
        yield running


def _raw(channel: grpc.Channel, method: str, metadata: Sequence[tuple[str, str]] = ()) -> tuple[str, str]:
    dialled: Any = channel
    return outcome(lambda: dialled.unary_unary(method)(b"", timeout=CALL_SECONDS, metadata=metadata))


def _ask_proxy(pair: Everything, path: str, session_id: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{pair.forward_auth}/forward-auth",
        headers={
            "x-forwarded-method": "GET",
            "x-forwarded-uri": path,
            "authorization": f"Bearer {session_id}",
            "x-forwarded-for": "198.51.100.1",
        },
    )
    try:
        urllib.request.urlopen(request, timeout=CALL_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()


class _Round:
    """One round of everything that a caller may do or invent; keeps what must be named nowhere."""

    def __init__(self, pair: Everything, number: int) -> None:
        self.named: set[str] = set()
        email = fresh_email()
        user = pair.app.register(email)
        login = pair.app.log_in(email)
        path = f"/account/{number}"
        self.named |= {email, user.id, login.session_id, login.session.handle, path, f"/elsewhere/{number}"}
        for _ in range(2):
            assert pair.app.validate(login.session_id).HasField("session")
        pair.app.validate(new_session_id(os.urandom))
        pair.app.validate("rubbish")
        _ask_proxy(pair, path, login.session_id)
        _ask_proxy(pair, f"/elsewhere/{number}", login.session_id)
        wrong = session_pb2.LoginRequest(login=email, password="wrong", context=BROWSER)
        for _ in range(5):
            outcome(lambda: pair.app.sessions.Login(wrong, timeout=CALL_SECONDS))
        pair.app.sessions.Logout(session_pb2.LogoutRequest(session_id=login.session_id), timeout=CALL_SECONDS)
        self._strangers(pair, number)

    def _strangers(self, pair: Everything, number: int) -> None:
        invented = (
            f"/invented.v{number}.Service/Method{number}",
            f"/trustlayer.v1.SessionService/Invented{number}",
            f"/grpc.health.v1.Health/Invented{number}",
        )
        self.named |= {part for name in invented for part in name.split("/") if str(number) in part}
        with pair.stranger() as channel:
            for name in (*invented, "/trustlayer.v1.SessionService/Login"):
                _raw(channel, name)
            for name in invented:
                _raw(channel, name, bearer(pair.secret))
        for name in invented:
            _raw(pair.app.channel, name)


def test_callers_add_no_series_and_no_name_of_theirs_is_a_label(pair: Everything) -> None:
    named: set[str] = set()
    rounds = (_Round(pair, number) for number in range(70_000, 70_006))
    named |= next(rounds).named | next(rounds).named
    before = [scrape().series for scrape in (pair.scrape_flowless, pair.scrape_sidecar)]
    for each in rounds:
        named |= each.named
    for scrape, known in zip((pair.scrape_flowless(), pair.scrape_sidecar()), before, strict=True):
        assert scrape.series == known
        assert not named & scrape.label_values
        for secret in (*named, pair.secret, PASSWORD, BROWSER.client_ip, str(os.getpid())):
            if len(secret) > 8:
                assert secret not in scrape.text


def test_invented_rpcs_count_as_other_and_refused_calls_count_with_their_code(pair: Everything) -> None:
    before = pair.scrape_flowless()
    with pair.stranger() as channel:
        assert _raw(channel, "/trustlayer.v1.Invented/Rpc")[0] == "UNAUTHENTICATED"
        assert _raw(channel, "/trustlayer.v1.AdminService/ListAuditEvents")[0] == "UNAUTHENTICATED"
        client = Client(channel, pair.secret)
        request = bridge_pb2.ValidateSessionRequest(session_id=new_session_id(os.urandom))
        client.bridge.ValidateSession(request, timeout=CALL_SECONDS)
    after = pair.scrape_flowless()

    def more(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert more("flowless_calls_total", rpc="other", code="UNAUTHENTICATED") == 1
    assert more("flowless_calls_total", rpc="AdminService/ListAuditEvents", code="UNAUTHENTICATED") == 1
    assert more("flowless_calls_total", rpc="BridgeService/ValidateSession", code="OK") == 1
    assert more("flowless_call_seconds_count", rpc="BridgeService/ValidateSession") == 1
    assert more("flowless_call_errors_total", reason="BRIDGE_CREDENTIAL_MISSING") == 2
    assert more("flowless_validations_total", tier="database") == 1
    assert more("flowless_denials_total", reason="UNKNOWN") == 1
    assert more("flowless_database_pool_wait_seconds_count", pool="read") >= 1
    assert after.value("flowless_calls_in_flight") >= 1  # the sidecar's watch


def test_hashes_are_counted_and_timed(pair: Everything) -> None:
    before = pair.scrape_flowless()
    pair.app.register(fresh_email())
    after = pair.scrape_flowless()
    for name in ("flowless_hashing_wait_seconds_count", "flowless_hashing_work_seconds_count"):
        assert after.value(name) == before.value(name) + 1
    assert after.value("flowless_hashing_running") == after.value("flowless_hashing_waiting") == 0
    assert after.value("flowless_hashing_workers") >= 1
    assert after.value("flowless_hashing_queue_capacity") >= 1


def test_a_mismatch_is_counted_on_both_sides(pair: Everything) -> None:
    email = fresh_email()
    pair.app.register(email)
    login = pair.app.log_in(email)
    before = pair.scrape_flowless(), pair.scrape_sidecar()
    elsewhere = types_pb2.RequestContext(client_ip="192.0.2.99", device_fingerprint="device", user_agent="agent")
    request = validator_pb2.ValidateRequest(
        session_id=login.session_id,
        context=elsewhere,
        route="account",
        mode=types_pb2.VALIDATION_MODE_ADVANCED,
    )
    answer = pair.app.validator.Validate(request, timeout=CALL_SECONDS)
    assert answer.denial.reason == types_pb2.DENIAL_REASON_IP_MISMATCH
    after = pair.scrape_flowless(), pair.scrape_sidecar()
    for scrapes, name, labels in (
        (0, "flowless_mismatch_reports_total", {"outcome": "revoked"}),
        (1, "bridge_sidecar_mismatch_reports_total", {"outcome": "reported"}),
        (1, "bridge_sidecar_denials_total", {"reason": "IP_MISMATCH"}),
    ):
        assert after[scrapes].value(name, **labels) == before[scrapes].value(name, **labels) + 1


def test_the_end_of_the_certificate_is_shown(pair: Everything) -> None:
    shown = pair.scrape_flowless().value("flowless_tls_certificate_not_after_seconds")
    assert 0 < shown - time.time() <= 3_600  # as `tests.support.certificates` issues them


@pytest.mark.parametrize("program", ["flowless", "sidecar"])
def test_what_is_served_is_what_is_declared(pair: Everything, program: str) -> None:
    scrape: Scrape = pair.scrape_flowless() if program == "flowless" else pair.scrape_sidecar()
    catalogue = (flowless.adapters.metrics if program == "flowless" else bridge_sidecar.metrics).CATALOGUE
    declared = {
        **{family.name: (family.kind, family.text) for family in catalogue.families},
        **{name.removesuffix("_total"): (kind, text) for name, kind, text in metric_families.PROCESS},
    }
    served = {name: (family.type, family.documentation) for name, family in scrape.families.items()}
    assert served == declared
    by_name = {family.name: set(family.labels) for family in catalogue.families}
    for name, family in scrape.families.items():
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == by_name.get(name, set()), sample
