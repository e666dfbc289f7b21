"""What hashing a new password costs: Argon2id's parameters, by name."""

import base64
import os
from typing import Final

import argon2

TESTING_PROFILE: Final = "testing"
PROFILES: Final[dict[str, argon2.Parameters]] = {
    # RFC 9106 section 4, second recommended option: 64 MiB, 3 passes, 4 lanes.
    "rfc9106-second": argon2.profiles.RFC_9106_LOW_MEMORY,
    # OWASP Password Storage Cheat Sheet, Argon2id minimum: 19 MiB, 2 passes, 1 lane.
    "owasp": argon2.Parameters(
        type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=2, memory_cost=19456, parallelism=1
    ),
    # Worthless on purpose; the configuration refuses it outside tests.
    TESTING_PROFILE: argon2.Parameters(
        type=argon2.Type.ID, version=19, salt_len=16, hash_len=32, time_cost=1, memory_cost=8, parallelism=1
    ),
}


def decoy(profile: str) -> str:
    """Make up a hash that no password has, and that costs as much to check as one of this profile."""
    cost = PROFILES[profile]
    salt, digest = (
        base64.b64encode(os.urandom(size)).decode("ascii").rstrip("=") for size in (cost.salt_len, cost.hash_len)
    )
    return f"$argon2id$v={cost.version}$m={cost.memory_cost},t={cost.time_cost},p={cost.parallelism}${salt}${digest}"
