"""Argon2id in a pool no larger than the cores, with a bounded queue that sheds load.

Shared state: the count of running and waiting jobs, touched by the event loop only.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import argon2
from argon2.exceptions import Argon2Error

from flowless.ports.passwords import Verdict
from trust_core.errors import Reason, TrustError

T = TypeVar("T")

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


class Argon2PasswordHasher:
    """See `flowless.ports.passwords.PasswordHasher`."""

    def __init__(self, *, profile: str, max_waiting: int, threads: int | None = None) -> None:
        self._threads = threads if threads is not None else os.cpu_count() or 1
        self._max_jobs = self._threads + max_waiting
        self._jobs = 0
        self._pool = ThreadPoolExecutor(max_workers=self._threads, thread_name_prefix="argon2")
        self._hasher = argon2.PasswordHasher.from_parameters(PROFILES[profile])
        # What an unknown user's password is compared with, so that the answer takes as long as for a known one.
        self._nobody = self._hasher.hash(os.urandom(16).hex())

    def close(self) -> None:
        """Wait for running jobs and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """See the port."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, password_hash: str | None, password: str) -> Verdict:
        """See the port."""
        verdict = await self._run(lambda: self._verify(password_hash or self._nobody, password))
        return verdict if password_hash else Verdict(matches=False)

    def _verify(self, password_hash: str, password: str) -> Verdict:
        # InvalidHashError is a ValueError and not an Argon2Error, a hash that is not ASCII another: all are "no".
        with contextlib.suppress(Argon2Error, ValueError):
            self._hasher.verify(password_hash, password)
            return Verdict(matches=True, outdated=self._hasher.check_needs_rehash(password_hash))
        return Verdict(matches=False)

    async def _run(self, job: Callable[[], T]) -> T:
        if self._jobs >= self._max_jobs:
            raise TrustError(Reason.HASHING_OVERLOADED, "too many logins at once; retry later")
        self._jobs += 1
        loop = asyncio.get_running_loop()
        future = self._pool.submit(job)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finished))
        # A caller that goes away takes a job that still waits with it; one that runs keeps its place to its end.
        return await asyncio.wrap_future(future)

    def _finished(self) -> None:
        self._jobs -= 1
