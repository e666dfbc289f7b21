"""What a hashing worker is asked to do, how that travels, and doing it. The worker itself is `worker.py`.

A job and its answer are frames on a socket pair: four bytes of length, and JSON whose characters are bytes
(Latin-1), so that a password needs no encoding of its own. Passwords arrive as they are to be hashed: a pepper's keys
stay in the parent.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import argon2

from flowless.adapters.passwords import schemes

LENGTH: Final = struct.Struct("!I")
MAX_FRAME: Final = 32 * 1024 * 1024
"""More than a password in the largest message can become; only nonsense is longer."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A password, in bytes, and the stored hash that it is compared with."""

    stored: str
    password: bytes


class JobFailedError(Exception):
    """The worker could not do it; the text is the name of what happened to it."""


def to_hash(password: bytes) -> bytes:
    """Ask for a new hash of the worker's profile."""
    return _written({"hash": password.decode("latin-1")})


def to_compare(guesses: Sequence[Guess]) -> bytes:
    """Ask which guess is the first to match; those after it are not tried."""
    return _written({"compare": [[each.stored, each.password.decode("latin-1")] for each in guesses]})


def hashed(answer: bytes) -> str:
    """Read the answer to `to_hash`. Raises JobFailedError."""
    return str(_read(answer)["hash"])


def first_match(answer: bytes) -> int | None:
    """Read the answer to `to_compare`. Raises JobFailedError."""
    position = _read(answer)["match"]
    return position if isinstance(position, int) else None


def perform(job: bytes, hasher: argon2.PasswordHasher) -> bytes:
    """Do a job; what goes wrong is an answer too, and tells no more than its name."""
    try:
        asked = json.loads(job.decode("latin-1"))
        if "hash" in asked:
            return _written({"hash": hasher.hash(asked["hash"].encode("latin-1"))})
        return _written({"match": _first(asked["compare"])})
    except Exception as error:  # noqa: BLE001  # the worker lives on, and the parent has to hear of it
        return _written({"failed": type(error).__name__})


def _first(pairs: Sequence[Sequence[str]]) -> int | None:
    for position, (stored, password) in enumerate(pairs):
        known = schemes.read(stored)
        if known is not None and known.check(password.encode("latin-1")):
            return position
    return None


def _written(message: dict[str, object]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode("latin-1")


def _read(answer: bytes) -> dict[str, object]:
    message: dict[str, object] = json.loads(answer.decode("latin-1"))
    if "failed" in message:
        raise JobFailedError(str(message["failed"]))
    return message
