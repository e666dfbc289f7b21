"""Argon2id in a pool no larger than the cores, with a bounded queue that sheds load.

Shared state: the counts of jobs and of refusals, touched by the event loop only.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import argon2

from flowless.adapters.passwords import schemes
from flowless.adapters.passwords.pepper import Pepper
from flowless.ports.passwords import Verdict
from trust_core import logs
from trust_core.errors import Reason, TrustError

T = TypeVar("T")

_NICE: Final = 10

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

    def __init__(
        self, *, profile: str, max_waiting: int, threads: int | None = None, pepper: Pepper | None = None
    ) -> None:
        self._threads = threads if threads is not None else os.cpu_count() or 1
        self._max_jobs = self._threads + max_waiting
        self.jobs = 0
        self.refused = 0
        self._pool = ThreadPoolExecutor(
            max_workers=self._threads, thread_name_prefix="argon2", initializer=_stand_back
        )
        self._hasher = argon2.PasswordHasher.from_parameters(PROFILES[profile])
        self._pepper = pepper or Pepper()
        # What an unknown user's password is compared with, so that the answer takes as long as for a known one.
        self._nobody = self._hash(os.urandom(16).hex())

    def close(self) -> None:
        """Wait for running jobs and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def can_verify(self, password_hash: str) -> bool:
        """See the port."""
        return schemes.read(password_hash) is not None

    async def hash(self, password: str) -> str:
        """See the port."""
        return await self._run(lambda: self._hash(password))

    async def verify(self, password_hash: str | None, password: str, *, as_typed: str = "") -> Verdict:
        """See the port."""
        verdict = await self._run(lambda: self._verify(password_hash or "", password, as_typed))
        return verdict if password_hash else Verdict(matches=False)

    def _hash(self, password: str) -> str:
        return self._pepper.join(self._hasher.hash(self._pepper.applied(self._pepper.current, _bytes(password))))

    def _verify(self, password_hash: str, password: str, as_typed: str) -> Verdict:
        pepper, inner = self._pepper.split(password_hash)
        known = schemes.read(inner) if self._pepper.knows(pepper) else None
        if known is None:
            # No hash, one that is none, over a cap, or under a lost pepper: it costs what any other does.
            if password_hash:
                logs.get_logger("flowless").error(
                    "a stored password hash cannot be checked", pepper_is_known=self._pepper.knows(pepper)
                )
            self._spend_a_check(password)
            return Verdict(matches=False)
        matches = known.check(self._pepper.applied(pepper, _bytes(password)))
        if not matches and not known.is_ours and as_typed not in ("", password):
            # Whoever made this hash may not have normalised the password.
            matches = known.check(_bytes(as_typed))
        is_dated = not known.is_ours or self._hasher.check_needs_rehash(inner)
        if not matches:
            if is_dated:
                # A hash of another cost would tell by the time of a refusal that somebody is there. One that is
                # dearer than today's still does, until the first login.
                self._spend_a_check(password)
            return Verdict(matches=False)
        outdated = is_dated or pepper != self._pepper.current
        return Verdict(matches=True, outdated=outdated)

    def _spend_a_check(self, password: str) -> None:
        """Take as long as a check of a hash of today's."""
        pepper, inner = self._pepper.split(self._nobody)
        known = schemes.read(inner)
        if known is not None:
            known.check(self._pepper.applied(pepper, _bytes(password)))

    async def _run(self, job: Callable[[], T]) -> T:
        if self.jobs >= self._max_jobs:
            self.refused += 1
            raise TrustError(Reason.HASHING_OVERLOADED, "too many logins at once; retry later")
        self.jobs += 1
        loop = asyncio.get_running_loop()
        future = self._pool.submit(job)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finished))
        # A caller that goes away takes a job that still waits with it; one that runs keeps its place to its end.
        return await asyncio.wrap_future(future)

    def _finished(self) -> None:
        self.jobs -= 1


def _stand_back() -> None:
    """Let the event loop come first: on Linux a thread has a priority of its own, and Argon2's lanes inherit it.

    So a storm of logins takes what time validations leave, and not the other way round.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _bytes(password: str) -> bytes:
    # Half a surrogate pair cannot come from a request; if it does, it is a wrong password and no exception.
    return password.encode("utf-8", "surrogatepass")
