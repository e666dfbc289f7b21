"""New certificates, keys and authorities on both sides of the connection of sidecar and Flowless: really used."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from bridge_sidecar.upstream import OPTIONS
from bridge_sidecar.upstream_channel import UpstreamChannel
from flowless.grpc.tls import ServerTls, check
from tests.support.certificates import Authority, Pair, PemFiles
from trust_core.tls_files import TlsFiles, TlsPaths

WHO = "/test.Who/AmI"
CALL_SECONDS = 20.0


def paths(files: PemFiles) -> TlsPaths:
    return TlsPaths(cert_file=files.certificate, key_file=files.key, ca_file=files.authorities)


def issued_by(authority: Authority, name: str) -> Pair:
    return authority.issue(name, dns=("localhost",))


def serial(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair.certificate).serial_number


async def who(_: bytes, context: Any) -> bytes:
    names: list[bytes] = context.auth_context().get("x509_common_name", [])
    return names[0] if names else b"nobody"


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials) -> AsyncIterator[int]:
    """A server that tells each caller the name in its certificate; gives the port."""
    server = grpc.aio.server()
    handlers: dict[str, Any] = {"AmI": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", handlers),))
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def shown_by_server(port: int, client: PemFiles, authority: Authority) -> int:
    """Serial number of the certificate that a new connection is shown, by a client that trusts this authority."""

    def connect() -> int:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.load_cert_chain(client.certificate, client.key)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("localhost", port), CALL_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            # The handshake is over when the other side says something: it may still refuse us.
            if not connection.recv(1):
                raise ConnectionError("refused")
            shown = connection.getpeercert(binary_form=True)
            assert shown is not None
            return x509.load_der_x509_certificate(shown).serial_number

    return await asyncio.to_thread(connect)


@pytest.fixture
def old() -> Authority:
    return Authority("old")


@pytest.fixture
def new() -> Authority:
    return Authority("new")


async def test_a_server_shows_a_new_certificate_and_trusts_new_authorities_at_the_next_connection(
    tmp_path: Path, old: Authority, new: Authority
) -> None:
    files, client = PemFiles.of(tmp_path, "server"), PemFiles.of(tmp_path, "client")
    first, second, third = (issued_by(authority, "server") for authority in (old, old, new))
    files.put(first, old.pem)
    client.put(issued_by(old, "client"), old.pem)
    tls = ServerTls(files=TlsFiles(paths=paths(files), check=check))
    async with serving(tls.credentials(with_clients=True)) as port:
        assert await shown_by_server(port, client, old) == serial(first)
        files.put(second)
        assert await shown_by_server(port, client, old) == serial(first), "nobody has looked yet"
        await tls.look()
        assert await shown_by_server(port, client, old) == serial(second)
        files.put(third, new.pem)
        await tls.look()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await shown_by_server(port, client, new)
        client.put(issued_by(new, "client"))
        assert await shown_by_server(port, client, new) == serial(third)


async def test_a_sidecar_calls_with_its_new_certificate_and_trusts_its_new_authorities(
    tmp_path: Path, old: Authority, new: Authority
) -> None:
    files = PemFiles.of(tmp_path, "client")
    server = issued_by(old, "server")
    files.put(issued_by(old, "first"), old.pem)

    async def name_seen(channel: UpstreamChannel) -> str:
        call: Any = channel.current.unary_unary(WHO)
        return bytes(await call(b"", timeout=CALL_SECONDS)).decode()

    both = old.pem + new.pem
    credentials = grpc.ssl_server_credentials([(server.key, server.certificate)], both, True)
    tls_files = TlsFiles(paths=paths(files))
    async with serving(credentials) as port:
        channel = UpstreamChannel(address=f"localhost:{port}", files=tls_files, options=OPTIONS)
        try:
            before = channel.current
            assert await name_seen(channel) == "first"
            files.put(issued_by(new, "second"))
            assert await name_seen(channel) == "first", "nobody has looked yet"
            await channel._look(tls_files)
            assert channel.current is not before
            assert await name_seen(channel) == "second"
            # Authorities that do not vouch for this server: what is there stays, whatever else is in the files.
            files.put(issued_by(new, "third"), new.pem)
            await channel._look(tls_files)
            assert await name_seen(channel) == "second"
            files.put(None, both)
            await channel._look(tls_files)
            assert await name_seen(channel) == "third"
        finally:
            await channel.close()
