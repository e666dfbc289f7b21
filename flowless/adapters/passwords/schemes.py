"""Hashes of other systems: which of them we know, what they may cost, and whether a password matches.

A stored hash says itself how dear it is to check. So its parameters are read and capped first: whoever can write a
hash, by an import or in the database, must not be able to make one login take gigabytes or minutes. What is over a
cap is no hash: it matches nothing, and is not even tried.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import argon2
import bcrypt
from argon2.exceptions import Argon2Error

_MIB: Final = 1024 * 1024
MAX_MEMORY: Final = 256 * _MIB
"""Bytes that checking one hash may take; times the number of hashing workers that is what all of them may take."""
_ARGON2_MAX_WORK: Final = 1024 * _MIB  # memory times passes
_ARGON2_MAX_LANES: Final = 16
_BCRYPT_MAX_COST: Final = 14
_BCRYPT_BYTES: Final = 72
_SCRYPT_MAX_LANES: Final = 16
_SCRYPT_MAX_WORK: Final = 512 * _MIB  # memory of all lanes, one after the other
_PBKDF2_MAX_ITERATIONS: Final = 2_000_000
_MAX_CHARS: Final = 512
_MAX_DIGEST: Final = 128

_ARGON2: Final = re.compile(r"\$argon2(?:id|i|d)\$", re.ASCII)
_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_SCRYPT: Final = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/.]*)\$([A-Za-z0-9+/.]+)", re.ASCII
)
_PBKDF2: Final = re.compile(
    r"\$pbkdf2(?:-(sha1|sha256|sha512))?\$(?:i=)?(\d{1,8})(?:,l=\d{1,3})?\$([A-Za-z0-9+/.]*)\$([A-Za-z0-9+/.]+)",
    re.ASCII,
)
_DJANGO: Final = re.compile(r"pbkdf2_(sha1|sha256)\$(\d{1,8})\$([A-Za-z0-9]+)\$([A-Za-z0-9+/]+={0,2})", re.ASCII)

Check = Callable[[bytes], bool]
"""Whether a password, in UTF-8, matches."""


@dataclass(frozen=True, slots=True)
class Known:
    """A hash of a scheme that we know, within the caps. `is_ours`: Argon2id, which Flowless itself makes."""

    check: Check
    is_ours: bool


def read(stored: str) -> Known | None:
    """Read a hash; `None` for one that is none, is of an unknown scheme, or is over a cap."""
    if len(stored) > _MAX_CHARS or not stored.isascii():
        return None
    if _ARGON2.match(stored):
        return _argon2(stored)
    for pattern, build in ((_BCRYPT, _bcrypt), (_SCRYPT, _scrypt), (_PBKDF2, _pbkdf2), (_DJANGO, _django)):
        match = pattern.fullmatch(stored)
        if match is not None:
            check = build(match)
            return None if check is None else Known(check, is_ours=False)
    return None


def _argon2(stored: str) -> Known | None:
    try:
        cost = argon2.extract_parameters(stored)
    except (Argon2Error, ValueError):
        return None
    memory = cost.memory_cost * 1024
    if (
        not 1 <= cost.parallelism <= _ARGON2_MAX_LANES
        or not 8 * 1024 * cost.parallelism <= memory <= MAX_MEMORY
        or not cost.time_cost >= 1
        or memory * cost.time_cost > _ARGON2_MAX_WORK
        or not 4 <= cost.hash_len <= _MAX_DIGEST
    ):
        return None
    hasher = argon2.PasswordHasher()

    def check(password: bytes) -> bool:
        try:
            return hasher.verify(stored, password)
        except (Argon2Error, ValueError):
            return False

    return Known(check, is_ours=cost.type is argon2.Type.ID)


def _bcrypt(match: re.Match[str]) -> Check | None:
    if not 4 <= int(match[1]) <= _BCRYPT_MAX_COST:
        return None
    stored = match[0].encode("ascii")

    def check(password: bytes) -> bool:
        # bcrypt reads 72 bytes and stops at NUL; the systems that made these hashes cut there, silently.
        try:
            return bcrypt.checkpw(password.partition(b"\0")[0][:_BCRYPT_BYTES], stored)
        except ValueError:
            return False

    return check


def _scrypt(match: re.Match[str]) -> Check | None:
    log_n, block, lanes = int(match[1]), int(match[2]), int(match[3])
    salt, digest = _unpadded(match[4]), _unpadded(match[5])
    if salt is None or digest is None or not 1 <= log_n <= 30 or not block or not 1 <= lanes <= _SCRYPT_MAX_LANES:
        return None
    memory = 128 * block * ((1 << log_n) + lanes)
    work = 128 * block * (1 << log_n) * lanes
    if memory > MAX_MEMORY or work > _SCRYPT_MAX_WORK or not 16 <= len(digest) <= _MAX_DIGEST:
        return None

    def check(password: bytes) -> bool:
        try:
            made = hashlib.scrypt(
                password, salt=salt, n=1 << log_n, r=block, p=lanes, maxmem=2 * memory + _MIB, dklen=len(digest)
            )
        except (ValueError, OverflowError, MemoryError):
            return False
        return hmac.compare_digest(made, digest)

    return check


def _pbkdf2(match: re.Match[str]) -> Check | None:
    salt, digest = _unpadded(match[3]), _unpadded(match[4])
    return None if salt is None else _pbkdf2_check(match[1] or "sha1", int(match[2]), salt, digest)


def _django(match: re.Match[str]) -> Check | None:
    return _pbkdf2_check(match[1], int(match[2]), match[3].encode("ascii"), _unpadded(match[4].rstrip("=")))


def _pbkdf2_check(name: str, iterations: int, salt: bytes, digest: bytes | None) -> Check | None:
    if digest is None or not 16 <= len(digest) <= _MAX_DIGEST:
        return None
    # Each block of output costs all iterations again.
    blocks = -(-len(digest) // hashlib.new(name, usedforsecurity=False).digest_size)
    if not 1 <= iterations * blocks <= _PBKDF2_MAX_ITERATIONS:
        return None

    def check(password: bytes) -> bool:
        made = hashlib.pbkdf2_hmac(name, password, salt, iterations, len(digest))
        return hmac.compare_digest(made, digest)

    return check


def _unpadded(text: str) -> bytes | None:
    """Base64 without padding, in which some systems write `.` for `+`."""
    try:
        return base64.b64decode(text.replace(".", "+") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
