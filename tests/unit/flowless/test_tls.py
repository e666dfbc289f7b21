"""Which TLS files a server takes, and when."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from flowless.grpc.tls import ServerTls, check
from tests.support.certificates import Authority, Pair, PemFiles
from tests.support.report_log import log_into_report
from trust_core.tls_files import TlsFiles, TlsFilesError, TlsPaths

GOOD = Authority()
PAIR = GOOD.server()


def _paths(files: PemFiles) -> TlsPaths:
    return TlsPaths(cert_file=files.certificate, key_file=files.key, ca_file=files.authorities)


@pytest.fixture(autouse=True)
def _logged() -> Iterator[None]:
    log_into_report()
    yield
    log_into_report()


@pytest.fixture
def files(tmp_path: Path) -> PemFiles:
    made = PemFiles.of(tmp_path, "server")
    made.put(PAIR, GOOD.pem)
    return made


@pytest.fixture
def tls(files: PemFiles) -> ServerTls:
    return ServerTls(files=TlsFiles(paths=_paths(files), check=check))


def _locked() -> Pair:
    key = serialization.load_pem_private_key(PAIR.key, None)
    encryption = serialization.BestAvailableEncryption(b"password")
    return Pair(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption), PAIR.certificate
    )


@pytest.mark.parametrize(
    ("pair", "authorities"),
    [
        (Pair(GOOD.server().key, PAIR.certificate), None),
        (Pair(b"", PAIR.certificate), None),
        (Pair(PAIR.key, b"\xff\0garbage"), None),
        (Pair(PAIR.certificate, PAIR.key), None),
        (_locked(), None),
        (None, b""),
        (None, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        (None, PAIR.key),
    ],
)
async def test_what_cannot_be_used_is_not_taken_and_told_of_once(
    files: PemFiles,
    tls: ServerTls,
    pair: Pair | None,
    authorities: bytes | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files.put(pair, authorities)
    for _ in range(3):
        await tls.look()
    with pytest.raises(TlsFilesError):
        ServerTls(files=TlsFiles(paths=_paths(files), check=check))
    assert tls.replacements == 0
    told = capsys.readouterr().out
    assert told.count("not replaced") == 1
    assert "PRIVATE" not in told
    files.put(GOOD.server(), GOOD.pem)
    for _ in range(3):
        await tls.look()
    assert tls.replacements == 1


@pytest.mark.parametrize("remove", [lambda files: files.key.unlink(), lambda files: files.certificate.unlink()])
async def test_a_file_that_is_gone_for_a_moment_changes_nothing(
    files: PemFiles, tls: ServerTls, remove: Callable[[PemFiles], None]
) -> None:
    remove(files)
    await tls.look()
    files.put(PAIR)
    await tls.look()
    assert tls.replacements == 1


async def test_files_that_stay_as_they_are_are_not_taken_again(tls: ServerTls) -> None:
    await tls.look()
    assert tls.replacements == 0


def test_files_that_are_replaced_while_they_are_read_are_read_again(files: PemFiles) -> None:
    fresh = GOOD.server()
    replacing = [fresh]

    def replace(_: TlsPaths) -> None:
        while replacing:
            files.put(replacing.pop())

    reader = TlsFiles(paths=_paths(files), check=replace)
    with pytest.raises(TlsFilesError, match="being replaced"):
        reader.read()
    material = reader.read_if_changed()
    assert material is not None
    assert (material.key, material.certificates, material.authorities) == (fresh.key, fresh.certificate, GOOD.pem)
    assert reader.read_if_changed() is None


def test_a_link_that_is_swapped_under_all_files_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        PemFiles.of(tmp_path / name, "server").put(GOOD.server(), GOOD.pem)
    link, fresh = tmp_path / "now", tmp_path / "next"
    link.symlink_to("one")
    reader = TlsFiles(paths=_paths(PemFiles.of(link, "server")))
    reader.read()
    fresh.symlink_to("two")
    fresh.rename(link)
    material = reader.read_if_changed()
    assert material is not None
    assert material.key == (tmp_path / "two" / "server.key").read_bytes()


@pytest.mark.parametrize("content", [b"", b"\n", b"garbage", b"\0" * 100])
def test_what_holds_no_pem_never_reaches_grpc(files: PemFiles, content: bytes) -> None:
    for path in (files.certificate, files.key, files.authorities):
        kept = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(TlsFilesError, match="no PEM"):
            TlsFiles(paths=_paths(files)).read()
        path.write_bytes(kept)
    TlsFiles(paths=_paths(files)).read()


def test_what_is_no_regular_file_or_far_too_large_is_refused_and_holds_nobody_up(files: PemFiles) -> None:
    reader = TlsFiles(paths=_paths(files))
    with files.authorities.open("wb") as file:
        file.truncate(5 * 1024 * 1024)
    with pytest.raises(TlsFilesError, match="too large"):
        reader.read()
    files.key.unlink()
    files.key.mkdir()
    with pytest.raises(TlsFilesError, match=r"server\.key"):
        reader.read()
