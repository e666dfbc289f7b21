"""A password matches its own hash and no other, and a refusal costs the same for users that do not exist."""

import json
from typing import Any

import argon2
import pytest

from flowless.adapters.passwords import jobs, schemes
from flowless.adapters.passwords.hasher import Argon2PasswordHasher
from flowless.adapters.passwords.jobs import JobFailedError
from flowless.adapters.passwords.profiles import PROFILES, TESTING_PROFILE, decoy
from flowless.ports.passwords import Verdict
from tests.support.passwords import HashingHere, new_hasher


@pytest.fixture
def hasher() -> Argon2PasswordHasher:
    return new_hasher()


async def test_a_password_matches_its_hash_and_no_other(hasher: Argon2PasswordHasher) -> None:
    stored = await hasher.hash("correct")
    assert stored != await hasher.hash("correct")
    assert await hasher.verify(stored, "correct") == Verdict(matches=True, outdated=False)
    assert await hasher.verify(stored, "wrong") == Verdict(matches=False)
    assert await hasher.verify(stored, "") == Verdict(matches=False)
    assert await hasher.verify(stored, "correct\0") == Verdict(matches=False)


@pytest.mark.parametrize("password", ["\0", "\u00e4\u4e2d\U0001f511", '"\\\n', "\udc80", "x" * 100_000])
async def test_a_password_of_any_characters_reaches_the_worker_as_it_is(
    hasher: Argon2PasswordHasher, password: str
) -> None:
    stored = await hasher.hash(password)
    assert argon2.PasswordHasher().verify(stored, password.encode("utf-8", "surrogatepass"))
    assert (await hasher.verify(stored, password)).matches


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


class _Compared:
    """What was compared with a password, hash by hash."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hashes: list[str] = []
        self._read = schemes.read
        monkeypatch.setattr(schemes, "read", self._noting)

    def _noting(self, inner: str) -> schemes.Known | None:
        known = self._read(inner)
        if known is None:
            return None

        def check(password: bytes) -> bool:
            self.hashes.append(inner)
            return known.check(password)

        return schemes.Known(check, is_ours=known.is_ours)


@pytest.mark.parametrize("stored", [None, "", "no hash", "pepper=lost;$argon2id$v=19$m=8,t=1,p=1$c2FsdA$"])
async def test_an_unknown_user_costs_one_check_against_a_hash_of_todays_profile(
    hasher: Argon2PasswordHasher, stored: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = _Compared(monkeypatch)
    assert await hasher.verify(stored, "anything") == Verdict(matches=False)
    (one,) = compared.hashes
    assert argon2.extract_parameters(one) == PROFILES[TESTING_PROFILE]


async def test_a_refusal_of_a_cheaper_hash_costs_a_check_of_todays_beside_and_a_match_does_not(
    hasher: Argon2PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = argon2.PasswordHasher(time_cost=1, memory_cost=16, parallelism=1).hash("correct")
    compared = _Compared(monkeypatch)
    assert not (await hasher.verify(stored, "wrong")).matches
    first, second = compared.hashes
    assert (first, argon2.extract_parameters(second)) == (stored, PROFILES[TESTING_PROFILE])
    assert (await hasher.verify(stored, "correct")).matches
    assert compared.hashes[2:] == [stored]


@pytest.mark.parametrize("profile", PROFILES)
def test_what_nobody_is_compared_with_costs_what_a_hash_of_the_profile_does(profile: str) -> None:
    made = decoy(profile)
    known = schemes.read(made)
    assert known is not None
    assert not known.check(b"anything")
    hasher = argon2.PasswordHasher.from_parameters(PROFILES[profile])
    assert not hasher.check_needs_rehash(made)
    assert len(made) == len(hasher.hash("anything"))
    assert made != decoy(profile)


async def test_a_match_that_was_not_asked_for_is_a_no() -> None:
    class Overdoing(HashingHere):
        async def run(self, job: bytes) -> bytes:
            await super().run(job)
            return json.dumps({"match": 1}).encode()

    hasher = Argon2PasswordHasher(profile=TESTING_PROFILE, pool=Overdoing())
    assert await hasher.verify(await new_hasher().hash("correct"), "correct") == Verdict(matches=False)


async def test_a_job_that_fails_is_an_error_and_says_no_more_than_its_name(
    hasher: Argon2PasswordHasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> str:
        raise MemoryError("of the password secret")

    monkeypatch.setattr(argon2.PasswordHasher, "hash", broken)
    with pytest.raises(JobFailedError) as caught:
        await hasher.hash("secret")
    assert str(caught.value) == "MemoryError"


@pytest.mark.parametrize("job", [b"", b"{}", b"\xff", b"[]", b'{"compare": 1}'])
def test_a_job_that_is_none_is_answered_with_a_failure(job: bytes) -> None:
    answer = jobs.perform(job, argon2.PasswordHasher.from_parameters(PROFILES[TESTING_PROFILE]))
    with pytest.raises(JobFailedError):
        jobs.first_match(answer)


def test_profiles_cost_what_their_sources_say() -> None:
    assert PROFILES["rfc9106-second"] == argon2.profiles.RFC_9106_LOW_MEMORY
    owasp = PROFILES["owasp"]
    assert (owasp.memory_cost, owasp.time_cost, owasp.parallelism) == (19 * 1024, 2, 1)
    assert all(profile.type is argon2.Type.ID for profile in PROFILES.values())
