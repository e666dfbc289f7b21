"""TLS of the listeners: certificates that are renewed without a restart, and client certificates if asked for.

Files are looked at every second by a task. gRPC asks for news at every handshake, in a thread of its own; the answer
is a look at one attribute, so a flood of handshakes reads no file. What is handed out was tried before: a pair that
does not fit together, or an authority's file that holds none, is logged and the one before stays.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import grpc
from cryptography import x509

from trust_core import logs
from trust_core.tls_files import LOOK_SECONDS, TlsFiles, TlsFilesError, TlsMaterial, TlsPaths


def check(paths: TlsPaths) -> None:
    """Try a server's certificate and key, and the authorities of its clients. Raises `TlsFilesError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if paths.cert_file is not None and paths.key_file is not None:
        try:
            # The password: a key that needs one must not make a server ask for it on its terminal.
            context.load_cert_chain(paths.cert_file, paths.key_file, password=lambda: b"")
        except (OSError, ValueError):
            raise TlsFilesError(
                f"{paths.cert_file} and {paths.key_file} must be a PEM chain and its key, without a password"
            ) from None
    if paths.ca_file is not None:
        try:
            context.load_verify_locations(paths.ca_file)
        except (OSError, ValueError):
            raise TlsFilesError(f"{paths.ca_file} must be a PEM file of certificates") from None


class ServerTls:
    """See the module."""

    def __init__(self, *, files: TlsFiles) -> None:
        """Read the files. Raises `TlsFilesError`."""
        self._files = files
        self._log: Any = logs.get_logger("flowless")
        self._material = files.read()
        self._problem = ""
        self.replacements = 0
        self.validity = _validity(self._material)
        """From when until when the certificate in use is valid, in seconds since 1970; `None` if not known."""

    def credentials(self, *, with_clients: bool) -> grpc.ServerCredentials:
        """Make the credentials of one listener; `with_clients`: each has to bring a certificate."""
        given = self._material

        def news() -> Any:  # None for no news, which the stubs do not know
            nonlocal given
            material = self._material
            if material is given:
                return None
            given = material
            return _configuration(material, with_clients=with_clients)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given, with_clients=with_clients), news, require_client_authentication=with_clients
        )

    async def run(self) -> None:
        """Look at the files until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take new files if they are good; else keep what is there and say so, once for each problem."""
        try:
            material = await asyncio.to_thread(self._files.read_if_changed)
        except TlsFilesError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                self._log.error("TLS files not replaced; those before stay", problem=self._problem)
            return
        if material is not None:
            self._material = material
            self._problem = ""
            self.replacements += 1
            self.validity = _validity(material)
            self._log.info("TLS files read again")


def _configuration(material: TlsMaterial, *, with_clients: bool) -> grpc.ServerCertificateConfiguration:
    make: Callable[..., grpc.ServerCertificateConfiguration] = grpc.ssl_server_certificate_configuration
    return make([(material.key, material.certificates)], material.authorities if with_clients else None)


def _validity(material: TlsMaterial) -> tuple[float, float] | None:
    try:
        leaf, *_ = x509.load_pem_x509_certificates(material.certificates or b"")
    except (ValueError, TypeError):
        return None  # TLS took it, and is who decides
    return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
