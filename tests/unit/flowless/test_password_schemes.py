"""Hashes of other systems, and what a stored hash may cost."""

import base64
import hashlib
import time

import argon2
import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowless.adapters.passwords import schemes
from flowless.adapters.passwords.hasher import Argon2PasswordHasher
from flowless.adapters.passwords.pepper import Pepper, PepperError
from flowless.ports.passwords import Verdict
from tests.support.passwords import new_hasher

PASSWORD = "correct horse battery"
SALT = b"sixteen byte salt"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _argon2(kind: argon2.Type) -> str:
    return argon2.PasswordHasher(type=kind, time_cost=1, memory_cost=16, parallelism=1).hash(PASSWORD)


def _bcrypt(prefix: str) -> str:
    return bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode().replace("$2b$", prefix)


def _pbkdf2(name: str, form: str, *, iterations: int = 1_000) -> str:
    digest = hashlib.pbkdf2_hmac(name, PASSWORD.encode(), SALT, iterations, hashlib.new(name).digest_size)
    return form.format(i=iterations, salt=_b64(SALT), digest=_b64(digest))


SCRYPT = (
    "$scrypt$ln=4,r=8,p=1$"
    + _b64(SALT)
    + "$"
    + _b64(hashlib.scrypt(PASSWORD.encode(), salt=SALT, n=16, r=8, p=1, dklen=32))
)
DJANGO_DIGEST = base64.b64encode(hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), b"NaCl", 1_000)).decode()

FOREIGN = {
    "argon2i": _argon2(argon2.Type.I),
    "argon2d": _argon2(argon2.Type.D),
    "argon2id of another cost": _argon2(argon2.Type.ID),
    "bcrypt 2a": _bcrypt("$2a$"),
    "bcrypt 2b": _bcrypt("$2b$"),
    "bcrypt 2y": _bcrypt("$2y$"),
    "scrypt": SCRYPT,
    "pbkdf2 sha1": _pbkdf2("sha1", "$pbkdf2${i}${salt}${digest}"),
    "pbkdf2 sha256": _pbkdf2("sha256", "$pbkdf2-sha256$i={i},l=32${salt}${digest}"),
    "pbkdf2 sha256 of passlib": _pbkdf2("sha256", "$pbkdf2-sha256${i}${salt}${digest}").replace("+", "."),
    "pbkdf2 sha512": _pbkdf2("sha512", "$pbkdf2-sha512$i={i}${salt}${digest}"),
    "Django": f"pbkdf2_sha256$1000$NaCl${DJANGO_DIGEST}",
}


@pytest.fixture
def hasher() -> Argon2PasswordHasher:
    return new_hasher()


@pytest.mark.parametrize("name", FOREIGN)
async def test_a_hash_of_another_system_matches_its_password_and_is_outdated(
    hasher: Argon2PasswordHasher, name: str
) -> None:
    stored = FOREIGN[name]
    assert hasher.can_verify(stored)
    assert await hasher.verify(stored, PASSWORD) == Verdict(matches=True, outdated=True)
    for wrong in ("", PASSWORD + "x", PASSWORD.upper(), "x" * 1_000):
        assert await hasher.verify(stored, wrong) == Verdict(matches=False)


async def test_a_password_that_the_other_system_did_not_normalise_matches_as_it_was_typed(
    hasher: Argon2PasswordHasher,
) -> None:
    typed, normal = "pa\u0308sswort und mehr", "p\u00e4sswort und mehr"
    stored = bcrypt.hashpw(typed.encode(), bcrypt.gensalt(4)).decode()
    assert (await hasher.verify(stored, normal, as_typed=typed)).matches
    assert not (await hasher.verify(stored, normal)).matches
    ours = await hasher.hash(normal)
    assert not (await hasher.verify(ours, "another", as_typed=normal)).matches


async def test_bcrypt_reads_as_much_of_a_password_as_the_system_did_that_hashed_it(
    hasher: Argon2PasswordHasher,
) -> None:
    stored = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    assert (await hasher.verify(stored, "x" * 200)).matches
    assert not (await hasher.verify(stored, "x" * 71)).matches


TOO_DEAR = {
    "4 GiB": "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$" + "A" * 43,
    "many passes": "$argon2id$v=19$m=65536,t=4294967295,p=1$c2FsdHNhbHQ$" + "A" * 43,
    "many lanes": "$argon2id$v=19$m=65536,t=1,p=64$c2FsdHNhbHQ$" + "A" * 43,
    "a digest of a kilobyte": "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$" + "A" * 400,
    "bcrypt of cost 31": "$2b$31$" + "a" * 53,
    "scrypt of a gigabyte": "$scrypt$ln=20,r=8,p=1$c2FsdA$" + "A" * 43,
    "scrypt of 2**63": "$scrypt$ln=63,r=8,p=1$c2FsdA$" + "A" * 43,
    "scrypt with many lanes": "$scrypt$ln=4,r=8,p=999$c2FsdA$" + "A" * 43,
    "scrypt of much work": "$scrypt$ln=17,r=15,p=16$c2FsdA$" + "A" * 43,
    "PBKDF2 of many blocks": "$pbkdf2-sha1$i=2000000$c2FsdA$" + "A" * 160,
    "PBKDF2 of ten million": "$pbkdf2-sha256$i=10000000$c2FsdA$" + "A" * 43,
}


@pytest.mark.parametrize("name", TOO_DEAR)
async def test_a_stored_hash_over_a_cap_is_not_tried(hasher: Argon2PasswordHasher, name: str) -> None:
    stored = TOO_DEAR[name]
    assert not hasher.can_verify(stored)
    began = time.process_time()
    assert await hasher.verify(stored, PASSWORD) == Verdict(matches=False)
    # Processor time, so that a busy machine changes nothing: each of these would take many seconds.
    assert time.process_time() - began < 2


@given(
    st.text(max_size=200)
    | st.from_regex(r"\$(argon2id|2b|scrypt|pbkdf2-sha256)\$[a-z0-9=,$+/.]{0,80}", fullmatch=True)
)
def test_whatever_is_stored_is_read_or_refused_without_an_exception(stored: str) -> None:
    known = schemes.read(stored)
    assert known is None or known.check(b"x") in (True, False)


# --- pepper -----------------------------------------------------------------------------------------------------

ONE, TWO = ("one", b"\1" * 32), ("two", b"\2" * 32)


def _peppered(*keys: tuple[str, bytes]) -> Argon2PasswordHasher:
    return new_hasher(pepper=Pepper(keys=keys))


async def test_a_pepper_is_needed_to_match_and_can_be_changed() -> None:
    plain, one, both, two = _peppered(), _peppered(ONE), _peppered(TWO, ONE), _peppered(TWO)
    unpeppered, of_one = await plain.hash(PASSWORD), await one.hash(PASSWORD)
    assert of_one.startswith("pepper=one;$argon2id$")
    assert await one.verify(of_one, PASSWORD) == Verdict(matches=True)
    assert await one.verify(unpeppered, PASSWORD) == Verdict(matches=True, outdated=True)
    assert await both.verify(of_one, PASSWORD) == Verdict(matches=True, outdated=True)
    of_two = await both.hash(PASSWORD)
    assert await both.verify(of_two, PASSWORD) == Verdict(matches=True)
    for hasher in (plain, two):
        assert await hasher.verify(of_one, PASSWORD) == Verdict(matches=False)
    # Without the key, the hash that is stored is of something else.
    assert await plain.verify(of_one.partition(";")[2], PASSWORD) == Verdict(matches=False)
    assert await one.verify(of_one, "wrong") == Verdict(matches=False)
    assert await one.verify(FOREIGN["bcrypt 2b"], PASSWORD) == Verdict(matches=True, outdated=True)


def test_a_pepper_file_holds_ids_and_keys() -> None:
    lines = [f"{name}:{base64.b64encode(key).decode()}" for name, key in (TWO, ONE)]
    assert Pepper.parse("\n".join(lines) + "\n").current == "two"


_KEY = _b64(bytes(32)) + "="


@pytest.mark.parametrize(
    "text", ["", "x", "one:", "one:AAAA", f":{_KEY}", f"a/b:{_KEY}", f"x:{_KEY}\nx:{_KEY}", f"x:{_KEY}\ny"]
)
def test_a_pepper_file_that_is_none_is_refused_without_telling_what_it_holds(text: str) -> None:
    with pytest.raises(PepperError) as caught:
        Pepper.parse(text)
    assert "AAAA" not in str(caught.value)
