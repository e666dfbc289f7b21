"""The metrics' port asks for no credential: whoever reaches it must not be able to take the program's threads."""

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from tests.support.metrics import Scrape
from trust_core.metrics_server import MAX_CONNECTIONS, MetricsServer

pytestmark = pytest.mark.long

MANY = 200


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    serving = MetricsServer(host="127.0.0.1", port=0, collector=CollectorRegistry())
    yield serving
    serving.stop()


def _connect(server: MetricsServer) -> socket.socket:
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def test_those_who_connect_and_say_nothing_take_neither_threads_nor_prometheus_place(server: MetricsServer) -> None:
    before = threading.active_count()
    silent = [_connect(server) for _ in range(MANY)]
    try:
        assert "process_open_fds" in Scrape.of(server.address).text
        assert threading.active_count() - before <= MAX_CONNECTIONS + 1
    finally:
        for connection in silent:
            connection.close()


def test_those_who_send_a_little_now_and_then_lose_their_place_to_prometheus(server: MetricsServer) -> None:
    dripping = [_connect(server) for _ in range(MAX_CONNECTIONS)]
    try:
        for connection in dripping:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        assert "process_open_fds" in Scrape.of(server.address).text
        dripping[0].settimeout(20)
        assert dripping[0].recv(1) == b""
    finally:
        for connection in dripping:
            connection.close()


def test_who_says_nothing_is_cut_off(server: MetricsServer) -> None:
    with _connect(server) as silent:
        assert silent.recv(1) == b""


def test_a_request_that_the_library_fails_on_is_refused_and_written_nowhere(
    server: MetricsServer, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = http.client.HTTPConnection(server.address, timeout=20)
    asked.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=forged-line"})
    assert asked.getresponse().status == 400
    asked.close()
    assert "forged-line" not in capfd.readouterr().err
