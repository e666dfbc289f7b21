"""Password hashing in the test's own process, for tests that are not about the processes."""

import argon2

from flowless.adapters.passwords import jobs
from flowless.adapters.passwords.hasher import Argon2PasswordHasher
from flowless.adapters.passwords.pepper import Pepper
from flowless.adapters.passwords.profiles import PROFILES, TESTING_PROFILE


class HashingHere:
    """Does what a worker does, by the worker's own code, at once. See `flowless.adapters.passwords.hasher.Pool`."""

    def __init__(self) -> None:
        self._hasher = argon2.PasswordHasher.from_parameters(PROFILES[TESTING_PROFILE])

    def require_room(self) -> None:
        """There is always room."""

    async def run(self, job: bytes) -> bytes:
        return jobs.perform(job, self._hasher)


def new_hasher(*, pepper: Pepper | None = None) -> Argon2PasswordHasher:
    """Make a hasher of the cheap profile that needs no end."""
    return Argon2PasswordHasher(profile=TESTING_PROFILE, pool=HashingHere(), pepper=pepper)
