"""Passwords against stored hashes, at the cost of today's profile; the work itself is done by `pool.py`.

Whatever the stored hash is (none, one that is none, another system's, under a lost pepper), a refusal costs at least
what a hash of today's does.
"""

from typing import Protocol

import argon2

from flowless.adapters.passwords import jobs, schemes
from flowless.adapters.passwords.jobs import Guess
from flowless.adapters.passwords.pepper import Pepper
from flowless.adapters.passwords.profiles import PROFILES, decoy
from flowless.ports.passwords import Verdict
from trust_core import logs


class Pool(Protocol):
    """What does the jobs; see `HashingPool`."""

    def require_room(self) -> None:
        """Raise TrustError HASHING_OVERLOADED if `run` would do so at once."""
        ...

    async def run(self, job: bytes) -> bytes:
        """Have a job done. Raises TrustError HASHING_OVERLOADED."""
        ...


class Argon2PasswordHasher:
    """See `flowless.ports.passwords.PasswordHasher`."""

    def __init__(self, *, profile: str, pool: Pool, pepper: Pepper | None = None) -> None:
        """`pool` hashes with the same profile."""
        self._pool = pool
        self._pepper = pepper or Pepper()
        self._today = argon2.PasswordHasher.from_parameters(PROFILES[profile])
        # What an unknown user's password is compared with, so that the answer takes as long as for a known one.
        self._nobody = decoy(profile)

    def can_verify(self, password_hash: str) -> bool:
        """See the port."""
        return schemes.read(password_hash) is not None

    def require_room(self) -> None:
        """See the port."""
        self._pool.require_room()

    async def hash(self, password: str) -> str:
        """See the port."""
        job = jobs.to_hash(self._pepper.applied(self._pepper.current, _bytes(password)))
        return self._pepper.join(jobs.hashed(await self._pool.run(job)))

    async def verify(self, password_hash: str | None, password: str, *, as_typed: str = "") -> Verdict:
        """See the port."""
        pepper, inner = self._pepper.split(password_hash or "")
        is_known = self._pepper.knows(pepper)
        known = schemes.read(inner) if is_known else None
        # Compared where nothing else can be, and after a hash that is not of today's cost: that would tell by the
        # time of a refusal that somebody is there. One that is dearer still does, until the first login.
        nobody = Guess(self._nobody, self._pepper.applied(self._pepper.current, _bytes(password)))
        if known is None:
            if password_hash:
                logs.get_logger("flowless").error(
                    "a stored password hash cannot be checked", pepper_is_known=is_known
                )
            await self._pool.run(jobs.to_compare([nobody]))
            return Verdict(matches=False)
        guesses = [Guess(inner, self._pepper.applied(pepper, _bytes(password)))]
        if not known.is_ours and as_typed not in ("", password):
            # Whoever made this hash may not have normalised the password.
            guesses.append(Guess(inner, _bytes(as_typed)))
        is_dated = not known.is_ours or self._today.check_needs_rehash(inner)
        answer = await self._pool.run(jobs.to_compare([*guesses, nobody] if is_dated else guesses))
        match = jobs.first_match(answer)
        if match is None or match >= len(guesses):
            return Verdict(matches=False)
        return Verdict(matches=True, outdated=is_dated or pepper != self._pepper.current)


def _bytes(password: str) -> bytes:
    # Half a surrogate pair cannot come from a request; if it does, it is a wrong password and no exception.
    return password.encode("utf-8", "surrogatepass")
