"""Limits on attempts: how the wait grows, whom it meets, and whom it does not."""

import asyncio
import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowless.domain.attempts import DAY, HOUR, MINUTE, AttemptKind, AttemptLimits, network_of
from flowless.domain.audit import Action, Actor, Outcome
from flowless.services.attempts import AttemptLimiter
from tests.support.attempts import LIMITS, new_limiter
from tests.support.audit import RecordedAudit
from tests.support.clock import FakeClock
from tests.support.stores import BY
from trust_core.errors import Reason, TrustError
from trust_core.modes import RequestContext

SMALL = replace(LIMITS, free=5)
HOME = RequestContext("203.0.113.7")
ABROAD = RequestContext("198.51.100.1")
WRONG = TrustError(Reason.LOGIN_REFUSED, "wrong user or password")


class World:
    """A limiter, and how many attempts it let through to be checked."""

    def __init__(self, limits: AttemptLimits = SMALL) -> None:
        self.clock = FakeClock()
        self.audit = RecordedAudit()
        self.limiter: AttemptLimiter = new_limiter(clock=self.clock, audit=self.audit, limits=limits)
        self.checked = 0

    async def attempt(
        self,
        error: TrustError | None = WRONG,
        *,
        account: str = "ada",
        context: RequestContext = HOME,
        kind: AttemptKind = AttemptKind.LOGIN,
        by: Actor = BY,
    ) -> float | None:
        """Try; the seconds to wait when it was refused unchecked, else `None`."""
        try:
            async with self.limiter.attempt(kind, account=account, context=context, by=by):
                self.checked += 1
                await asyncio.sleep(0)
                if error is not None:
                    raise error
        except TrustError as raised:
            if raised.reason is not Reason.TOO_MANY_ATTEMPTS:
                assert raised is error
                return None
            assert raised.retry_after is not None
            assert raised.message == "too many attempts; retry later"
            return raised.retry_after
        return None

    async def succeed(self, **place: object) -> float | None:
        return await self.attempt(None, **place)  # type: ignore[arg-type]

    async def fail(self, times: int, **place: object) -> None:
        for _ in range(times):
            assert await self.attempt(**place) is None  # type: ignore[arg-type]


def address(number: int) -> RequestContext:
    return RequestContext(str(ipaddress.ip_address(0x0A000000 + number)))


async def test_after_the_free_failures_the_wait_doubles_up_to_the_longest() -> None:
    world = World()
    await world.fail(6)
    waits = []
    for _ in range(14):
        wait = await world.attempt()
        assert wait is not None
        waits.append(wait)
        world.clock.advance(wait - 0.5)
        assert await world.attempt() == 1, "half a second too soon"
        world.clock.advance(0.5)
        assert await world.attempt() is None
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]
    assert world.checked == 6 + 14


async def test_a_day_of_guessing_from_one_network_stays_within_what_nist_allows_in_a_row() -> None:
    world = World()
    elapsed = 0.0
    while elapsed < DAY - 900:
        wait = await world.attempt()
        world.clock.advance(wait or 0)
        elapsed += wait or 0
    assert world.checked <= 110


async def test_a_success_forgets_the_failures_of_its_own_network_only() -> None:
    world = World()
    await world.fail(6)
    await world.fail(6, context=ABROAD)
    assert await world.attempt() == 1
    world.clock.advance(1)
    assert await world.succeed() is None
    await world.fail(6)
    # The other network's waits are as they were: its gate is open since a second, and the next wait is two.
    assert await world.attempt(context=ABROAD) is None
    assert await world.attempt(context=ABROAD) == 2


async def test_a_right_password_is_not_looked_at_before_the_wait_is_over() -> None:
    world = World()
    await world.fail(6)
    before = world.checked
    assert await world.succeed() == 1
    assert world.checked == before


async def test_of_two_hundred_guesses_at_once_no_more_are_checked_than_one_after_the_other() -> None:
    world = World()
    await asyncio.gather(*(world.attempt() for _ in range(200)))
    assert world.checked == 6


async def test_guesses_at_once_from_many_networks_end_at_the_accounts_limit() -> None:
    world = World()
    await asyncio.gather(*(world.attempt(context=address(n // 3)) for n in range(400)))
    assert world.checked == LIMITS.failed_per_account_per_day
    assert world.audit.events


async def test_a_user_logs_in_from_a_known_network_while_others_use_up_the_accounts_limit() -> None:
    world = World()
    assert await world.succeed() is None
    for number in range(150):
        await world.attempt(context=address(number))
    assert world.checked == 1 + LIMITS.failed_per_account_per_day
    assert await world.succeed(context=RequestContext("192.0.2.1")) is not None, "a network that nobody knows"
    assert await world.succeed() is None


async def test_a_user_on_the_move_logs_in_with_a_known_device() -> None:
    world = World()
    assert await world.succeed(context=RequestContext("203.0.113.7", "phone")) is None
    for number in range(150):
        await world.attempt(context=address(number))
    assert await world.succeed(context=RequestContext("192.0.2.1", "phone")) is None
    assert await world.succeed(context=RequestContext("192.0.2.2", "other")) is not None


async def test_an_attacker_who_knows_the_device_neither_shuts_the_user_out_nor_gains_more_than_its_budget() -> None:
    world = World()
    assert await world.succeed(context=RequestContext("203.0.113.7", "phone")) is None
    for number in range(150):
        await world.attempt(context=RequestContext(address(number).client_ip, "phone"))
    assert world.checked == 1 + 6
    assert await world.succeed(context=RequestContext("203.0.113.7", "phone")) is None


async def test_an_attacker_behind_the_users_own_address_does_not_shut_a_known_device_out() -> None:
    world = World()
    assert await world.succeed(context=RequestContext("203.0.113.7", "phone")) is None
    for _ in range(50):
        await world.attempt(context=HOME)
    assert await world.succeed(context=RequestContext("203.0.113.7", "phone")) is None


async def test_sprayers_behind_the_users_own_address_do_not_shut_a_known_device_out() -> None:
    world = World(replace(SMALL, failed_per_ip_per_hour=20))
    phone = RequestContext("203.0.113.7", "phone")
    assert await world.succeed(context=phone) is None
    for number in range(30):
        await world.attempt(account=f"user{number}")
    assert await world.succeed(context=RequestContext("203.0.113.7", "new phone")) == HOUR
    assert await world.succeed(context=phone) is None


async def test_a_known_network_that_fails_has_to_wait_too() -> None:
    world = World()
    assert await world.succeed() is None
    await world.fail(6)
    assert await world.attempt() == 1


async def test_who_proved_it_otherwise_logs_in_although_the_accounts_limit_is_used_up() -> None:
    world = World()
    for number in range(150):
        await world.attempt(context=address(number))
    assert await world.succeed() is not None
    await world.limiter.vouch(account="ada", context=HOME)
    assert await world.succeed() is None


async def test_one_network_spraying_many_accounts_ends_at_its_limit_whether_they_exist_or_not() -> None:
    world = World(replace(SMALL, failed_per_ip_per_hour=20))
    waits = [await world.attempt(account=f"user{number}") for number in range(40)]
    assert world.checked == 20
    assert waits[20:] == [HOUR] * 20
    assert await world.attempt(account="another", context=ABROAD) is None


async def test_right_passwords_do_not_count_as_failures_of_an_office_behind_one_address() -> None:
    world = World(replace(SMALL, failed_per_ip_per_hour=20))
    for number in range(100):
        assert await world.succeed(account=f"user{number}") is None


async def test_one_network_and_one_bridge_have_a_limit_by_the_minute_whatever_they_bring() -> None:
    world = World(replace(SMALL, per_ip_per_minute=10, per_bridge_per_minute=15))
    for number in range(10):
        assert await world.succeed(account=f"user{number}") is None
    assert await world.succeed(account="next") == MINUTE
    for number in range(4):
        assert await world.succeed(account=f"user{number}", context=ABROAD) is None
    assert await world.succeed(account="next", context=address(1)) == MINUTE
    assert await world.succeed(account="next", context=address(1), by=Actor(name="bridge:other")) is None


async def test_an_attempt_that_could_not_be_checked_is_given_back() -> None:
    world = World()
    overloaded = TrustError(Reason.HASHING_OVERLOADED, "too many logins at once; retry later")
    for _ in range(20):
        assert await world.attempt(overloaded) is None
    await world.fail(6)
    assert await world.attempt(overloaded) == 1
    world.clock.advance(1)
    assert await world.attempt(overloaded) is None
    assert await world.attempt() is None, "the wait was given back as well"
    assert await world.attempt() == 2


async def test_what_one_limit_took_before_another_refused_is_given_back() -> None:
    world = World(replace(SMALL, failed_per_ip_per_hour=10))
    await world.fail(6)
    for _ in range(20):
        assert await world.attempt() == 1
    await world.fail(4, account="grace")


async def test_a_call_that_was_given_up_counts() -> None:
    world = World()

    async def give_up() -> None:
        checking = asyncio.Event()

        async def hang() -> None:
            async with world.limiter.attempt(AttemptKind.LOGIN, account="ada", context=HOME, by=BY):
                checking.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(hang())
        await checking.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for _ in range(6):
        await give_up()
    assert await world.attempt() == 1


async def test_asking_for_tokens_counts_although_it_succeeds_and_does_not_delay_logins() -> None:
    world = World()
    for _ in range(6):
        assert await world.succeed(kind=AttemptKind.TOKEN_ISSUE) is None
    assert await world.succeed(kind=AttemptKind.TOKEN_ISSUE) == 1
    assert await world.succeed() is None
    assert await world.succeed(kind=AttemptKind.TOKEN_ISSUE) == 1


async def test_tokens_are_redeemed_without_an_account_and_counted_by_network() -> None:
    world = World(replace(SMALL, failed_per_ip_per_hour=20))
    refused = TrustError(Reason.TRUST_TOKEN_REFUSED, "no")
    for _ in range(20):
        assert await world.attempt(refused, account="", kind=AttemptKind.TOKEN_CONSUME) is None
    assert await world.succeed(account="", kind=AttemptKind.TOKEN_CONSUME) == HOUR


async def test_an_attempt_from_nowhere_is_counted_by_account_and_bridge() -> None:
    world = World()
    for _ in range(6):
        assert await world.succeed(kind=AttemptKind.TOKEN_ISSUE, context=RequestContext()) is None
    assert await world.succeed(kind=AttemptKind.TOKEN_ISSUE, context=RequestContext()) == 1


async def test_refusals_leave_one_event_a_minute_that_names_no_account() -> None:
    world = World()
    await world.fail(6)
    for _ in range(50):
        assert await world.attempt() == 1
    (event,) = world.audit.events
    assert (event.action, event.outcome, event.subject) == (Action.ATTEMPTS_LIMITED, Outcome.REFUSED, "")
    assert event.details == {"kind": "login", "limit": "account"}
    assert world.limiter.refused[AttemptKind.LOGIN] == 50
    world.clock.advance(1)
    await world.fail(1)
    world.clock.advance(MINUTE - 2)
    await world.fail(1)
    assert await world.attempt() == 4
    world.clock.advance(1.5)
    assert await world.attempt() == 3
    assert len(world.audit.events) == 2


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_one_network_in_either_spelling(number: int) -> None:
    text = str(ipaddress.IPv4Address(number))
    assert network_of(text) == network_of(f"::ffff:{text}") == text


@given(st.integers(0, 2**64 - 1).filter(bool), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_ipv6_addresses_are_one_network_by_their_first_64_bits(prefix: int, one: int, two: int) -> None:
    networks = {network_of(str(ipaddress.IPv6Address((prefix << 64) | low))) for low in (one, two)}
    assert len(networks) == 1
    assert network_of(str(ipaddress.IPv6Address(((prefix ^ 1) << 64) | one))) not in networks


@given(st.text())
def test_what_is_no_address_is_no_network(text: str) -> None:
    assert network_of(text + "x") == ""


@given(st.integers(-5, 10**9), st.integers(1, 3_600))
def test_a_wait_is_at_least_a_second_and_never_longer_than_the_longest(delayed: int, longest: int) -> None:
    limits = replace(LIMITS, delay_max_seconds=longest)
    assert 1 <= limits.delay_seconds(delayed) <= longest
    assert limits.delay_seconds(delayed) <= limits.delay_seconds(delayed + 1)


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_what_is_counted_is_digested_without_two_readings(one: list[str], two: list[str]) -> None:
    limiter = new_limiter(clock=FakeClock(), audit=RecordedAudit())
    assert (limiter.digest(*one) == limiter.digest(*two)) == (one == two)
