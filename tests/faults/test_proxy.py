"""The proxy's faults, as its two ends see them."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.proxy import Proxy

SECONDS = 10.0


@contextmanager
def connected() -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    """A proxy, who connected through it, and the target's end."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy(f"127.0.0.1:{server.getsockname()[1]}") as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), SECONDS) as near,
        server.accept()[0] as far,
    ):
        far.settimeout(SECONDS)
        near.sendall(b"hello")
        assert far.recv(100) == b"hello"
        yield proxy, near, far


def test_what_a_deaf_proxy_swallowed_arrives_when_it_is_mended() -> None:
    with connected() as (proxy, near, far):
        proxy.go_deaf()
        near.sendall(b"later")
        far.settimeout(0.2)
        with pytest.raises(TimeoutError):
            far.recv(100)
        proxy.mend()
        far.settimeout(SECONDS)
        assert far.recv(100) == b"later"


def test_a_delay_holds_back_and_ends_when_the_proxy_is_mended() -> None:
    with connected() as (proxy, near, far):
        proxy.delay(0.2)
        began = time.monotonic()
        far.sendall(b"slow")
        assert near.recv(100) == b"slow"
        assert time.monotonic() - began >= 0.2
        proxy.delay(600)
        far.sendall(b"slower")
        time.sleep(0.05)
        proxy.mend()
        assert near.recv(100) == b"slower"


def test_a_half_closed_proxy_ends_the_way_back_and_still_carries_the_way_there() -> None:
    with connected() as (proxy, near, far):
        proxy.half_close()
        assert near.recv(100) == b""
        near.sendall(b"still heard")
        assert far.recv(100) == b"still heard"
        far.sendall(b"lost")
        near.sendall(b"and again")
        assert far.recv(100) == b"and again"


def test_a_cut_ends_what_is_open_and_what_comes() -> None:
    with connected() as (proxy, near, far):
        proxy.cut()
        assert near.recv(100) == b""
        assert far.recv(100) == b""
        with socket.create_connection(("127.0.0.1", proxy.port), SECONDS) as refused:
            assert refused.recv(100) == b""
