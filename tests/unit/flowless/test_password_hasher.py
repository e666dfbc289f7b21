"""Hashing is expensive on purpose: it is bounded, sheds load, and costs the same for users that do not exist."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import argon2
import pytest

from flowless.adapters.passwords import schemes
from flowless.adapters.passwords.hasher import PROFILES, TESTING_PROFILE, Argon2PasswordHasher
from flowless.ports.passwords import Verdict
from trust_core.errors import Reason, TrustError

ENOUGH = 20.0


class Held:
    """Stands before the real hashing, so that a test decides when a thread is done."""

    def __init__(self, hasher: Argon2PasswordHasher) -> None:
        self._real: Any = hasher._hasher
        self.release = threading.Event()
        self.begun = 0
        hasher._hasher = self  # type: ignore[assignment]

    def hash(self, password: str) -> str:
        self.begun += 1
        assert self.release.wait(ENOUGH)
        return str(self._real.hash(password))

    def check_needs_rehash(self, password_hash: str) -> bool:
        return bool(self._real.check_needs_rehash(password_hash))


@pytest.fixture
def hasher() -> Iterator[Argon2PasswordHasher]:
    made = Argon2PasswordHasher(profile=TESTING_PROFILE, max_waiting=1, threads=1)
    yield made
    made.close()


async def _begun(held: Held, count: int) -> None:
    async with asyncio.timeout(ENOUGH):
        while held.begun < count:
            await asyncio.sleep(0.001)


async def test_a_password_matches_its_hash_and_no_other(hasher: Argon2PasswordHasher) -> None:
    stored = await hasher.hash("correct")
    assert stored != await hasher.hash("correct")
    assert await hasher.verify(stored, "correct") == Verdict(matches=True, outdated=False)
    assert await hasher.verify(stored, "wrong") == Verdict(matches=False)
    assert await hasher.verify(stored, "") == Verdict(matches=False)
    assert await hasher.verify(stored, "correct\0") == Verdict(matches=False)


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != TESTING_PROFILE])
async def test_a_hash_of_another_profile_matches_and_is_outdated(hasher: Argon2PasswordHasher, profile: str) -> None:
    stored = argon2.PasswordHasher.from_parameters(PROFILES[profile]).hash("correct")
    assert await hasher.verify(stored, "correct") == Verdict(matches=True, outdated=True)
    assert await hasher.verify(stored, "wrong") == Verdict(matches=False)


@pytest.mark.parametrize(
    "stored",
    [
        "x", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$c2FsdA", "$2b$12$abcdefghijklmnopqrstuv", "$argon2id$ünïcode",
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$!!!!", "ünïcode", "\0",
    ],
)  # fmt: skip
async def test_a_stored_hash_that_is_none_matches_nothing(hasher: Argon2PasswordHasher, stored: str) -> None:
    assert await hasher.verify(stored, "correct") == Verdict(matches=False)


@pytest.mark.parametrize("stored", [None, ""])
async def test_an_unknown_user_costs_one_check_against_a_hash_of_todays_profile(
    hasher: Argon2PasswordHasher, stored: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    read = schemes.read

    def noting(inner: str) -> schemes.Known | None:
        known = read(inner)
        if known is None:
            return None

        def check(password: bytes) -> bool:
            compared.append(inner)
            return known.check(password)

        return schemes.Known(check, is_ours=known.is_ours)

    monkeypatch.setattr(schemes, "read", noting)
    assert await hasher.verify(stored, "anything") == Verdict(matches=False)
    (one,) = compared
    assert argon2.extract_parameters(one) == PROFILES[TESTING_PROFILE]


async def test_what_is_over_the_queue_is_refused_at_once_and_the_queue_is_served(
    hasher: Argon2PasswordHasher,
) -> None:
    held = Held(hasher)
    running, waiting = (asyncio.ensure_future(hasher.hash(text)) for text in ("one", "two"))
    await _begun(held, 1)
    for refused in (hasher.hash("three"), hasher.verify(None, "three")):
        with pytest.raises(TrustError) as caught:
            await refused
        assert caught.value.reason is Reason.HASHING_OVERLOADED
        assert caught.value.retry_after is not None
    held.release.set()
    hashes = await asyncio.wait_for(asyncio.gather(running, waiting), ENOUGH)
    assert (await hasher.verify(hashes[1], "two")).matches


async def test_a_job_that_runs_keeps_its_place_when_its_caller_gave_up(hasher: Argon2PasswordHasher) -> None:
    held = Held(hasher)
    gone = asyncio.ensure_future(hasher.hash("x"))
    await _begun(held, 1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    waiting = asyncio.ensure_future(hasher.hash("y"))
    await asyncio.sleep(0)
    with pytest.raises(TrustError) as caught:
        await hasher.hash("z")
    assert caught.value.reason is Reason.HASHING_OVERLOADED
    held.release.set()
    assert await asyncio.wait_for(waiting, ENOUGH)


async def test_a_job_that_waits_goes_with_its_caller_and_is_never_hashed(hasher: Argon2PasswordHasher) -> None:
    held = Held(hasher)
    running = asyncio.ensure_future(hasher.hash("x"))
    await _begun(held, 1)
    for _ in range(50):
        gone = asyncio.ensure_future(hasher.hash("gone"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await asyncio.sleep(0)
    waiting = asyncio.ensure_future(hasher.hash("y"))
    await asyncio.sleep(0)
    held.release.set()
    assert all(await asyncio.wait_for(asyncio.gather(running, waiting), ENOUGH))
    assert held.begun == 2
    assert hasher.jobs == 0


async def test_a_hash_that_fails_gives_its_place_back(
    hasher: Argon2PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(hasher, "_hasher", None)
        for _ in range(5):
            with pytest.raises(AttributeError):
                await hasher.hash("x")
    assert await hasher.hash("x")


def test_profiles_cost_what_their_sources_say() -> None:
    assert PROFILES["rfc9106-second"] == argon2.profiles.RFC_9106_LOW_MEMORY
    owasp = PROFILES["owasp"]
    assert (owasp.memory_cost, owasp.time_cost, owasp.parallelism) == (19 * 1024, 2, 1)
    assert all(profile.type is argon2.Type.ID for profile in PROFILES.values())
