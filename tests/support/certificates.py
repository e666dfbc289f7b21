"""Certificates of servers that tests start, and of their clients."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and its certificate, as PEM."""

    key: bytes
    certificate: bytes


class Authority:
    """A CA that vouches for whom a test likes; everything is valid for an hour."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = _builder(self._name, self._name, self._key).add_extension(constraints, critical=True)
        self.pem = _pem(builder.sign(self._key, hashes.SHA256()))

    def issue(self, name: str, *, dns: tuple[str, ...] = (), uris: tuple[str, ...] = (), days_ago: int = 0) -> Pair:
        """Issue a certificate with these names; `days_ago` makes it one that expired then."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [*map(x509.DNSName, dns), *map(x509.UniformResourceIdentifier, uris)]
        builder = _builder(_name(name), self._name, key, days_ago=days_ago)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Pair(_key_pem(key), _pem(builder.sign(self._key, hashes.SHA256())))

    def server(self) -> Pair:
        """Issue a certificate for localhost."""
        return self.issue("server", dns=("localhost",))


@dataclass(frozen=True, slots=True)
class PemFiles:
    """Where a program finds its pair and its authorities."""

    certificate: Path
    key: Path
    authorities: Path

    @classmethod
    def of(cls, directory: Path, name: str) -> Self:
        """Files of that name in the directory."""
        return cls(directory / f"{name}.pem", directory / f"{name}.key", directory / f"{name}.ca")

    def put(self, pair: Pair | None = None, authorities: bytes | None = None) -> None:
        """Replace them one after the other, each at once, as tools that renew certificates do."""
        contents = {self.authorities: authorities}
        if pair is not None:
            contents |= {self.certificate: pair.certificate, self.key: pair.key}
        for path, content in contents.items():
            if content is not None:
                fresh = path.with_suffix(path.suffix + ".new")
                fresh.touch(0o600)
                fresh.write_bytes(content)
                fresh.rename(path)


def self_signed(certificate_file: Path) -> tuple[bytes, bytes]:
    """Make a certificate for localhost, its own CA, valid for an hour; return key and certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(certificate_file.stem)
    builder = _builder(name, name, key)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    pem = _pem(builder.add_extension(names, critical=False).sign(key, hashes.SHA256()))
    certificate_file.write_bytes(pem)
    return _key_pem(key), pem


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days_ago: int = 0
) -> x509.CertificateBuilder:
    now = datetime.now(UTC) - timedelta(days=days_ago)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + (timedelta(0) if days_ago else timedelta(hours=1)))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
