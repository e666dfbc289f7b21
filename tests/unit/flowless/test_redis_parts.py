"""The parts of the Redis tier that need no Redis: seal, breaker, URLs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowless.adapters.redis.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_NS, LAST_PAUSE_NS, Breaker
from flowless.adapters.redis.connect import connect, disconnect, problem_of
from flowless.adapters.redis.payload import PayloadSealer
from flowless.domain.sessions import SessionRead
from tests.support.clock import FakeClock
from tests.support.stores import fresh_digest, new_session, new_user

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
LOG = "0" * 32
USER = new_user("ada@example.org")
READ = SessionRead(revision=7, session=new_session(USER.id, epoch=3), user=USER, user_epoch=3)
assert READ.session is not None
DIGEST = READ.session.digest
SEALER = PayloadSealer(keys=[KEY])


def test_what_was_sealed_is_opened_as_it_was() -> None:
    assert SEALER.open(SEALER.seal(READ, digest=DIGEST, log_id=LOG), digest=DIGEST, log_id=LOG) == READ


def test_nothing_of_a_person_can_be_read_in_a_sealed_entry() -> None:
    sealed = SEALER.seal(READ, digest=DIGEST, log_id=LOG)
    for text in ("ada", "Lovelace", USER.id, "admin", "Firefox", "session"):
        assert text.encode() not in sealed
    assert SEALER.seal(READ, digest=DIGEST, log_id=LOG) != sealed, "the same twice does not look the same"


@given(st.data())
def test_an_entry_that_was_altered_in_any_bit_or_cut_is_not_opened(data: st.DataObject) -> None:
    sealed = bytearray(SEALER.seal(READ, digest=DIGEST, log_id=LOG))
    if data.draw(st.booleans()):
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del sealed[data.draw(st.integers(0, len(sealed) - 1)) :]
    assert SEALER.open(bytes(sealed), digest=DIGEST, log_id=LOG) is None


@given(st.binary(max_size=200))
def test_bytes_that_nobody_sealed_are_not_opened(garbage: bytes) -> None:
    assert SEALER.open(garbage, digest=DIGEST, log_id=LOG) is None


def test_an_entry_is_worth_nothing_elsewhere_or_under_another_key() -> None:
    sealed = SEALER.seal(READ, digest=DIGEST, log_id=LOG)
    assert SEALER.open(sealed, digest=fresh_digest(), log_id=LOG) is None
    assert SEALER.open(sealed, digest=DIGEST, log_id="1" * 32) is None
    assert PayloadSealer(keys=[OTHER_KEY]).open(sealed, digest=DIGEST, log_id=LOG) is None


def test_a_session_sealed_for_another_digest_is_refused_even_by_its_own_key() -> None:
    other = fresh_digest()
    assert SEALER.open(SEALER.seal(READ, digest=other, log_id=LOG), digest=other, log_id=LOG) is None


def test_keys_are_changed_without_losing_entries() -> None:
    old, both, new = (PayloadSealer(keys=keys) for keys in ([KEY], [OTHER_KEY, KEY], [OTHER_KEY]))
    assert both.open(old.seal(READ, digest=DIGEST, log_id=LOG), digest=DIGEST, log_id=LOG) == READ
    assert new.open(both.seal(READ, digest=DIGEST, log_id=LOG), digest=DIGEST, log_id=LOG) == READ


def test_what_was_not_found_cannot_be_sealed() -> None:
    with pytest.raises(ValueError):
        SEALER.seal(replace(READ, session=None), digest=DIGEST, log_id=LOG)
    with pytest.raises(ValueError):
        PayloadSealer(keys=[])


def test_the_breaker_opens_after_failures_in_a_row_and_closes_when_a_probe_succeeds() -> None:
    clock = FakeClock()
    breaker = Breaker(clock=clock)
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed()
    breaker.succeeded()
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.allows()
        breaker.failed()
    assert breaker.is_open
    assert not breaker.allows()
    clock.advance(FIRST_PAUSE_NS / 1e9)
    assert breaker.allows()
    assert not breaker.allows(), "one probe at a time"
    breaker.succeeded()
    assert breaker.allows()
    assert not breaker.is_open


def test_pauses_grow_up_to_a_cap_and_late_failures_do_not_lengthen_them() -> None:
    clock = FakeClock()
    breaker = Breaker(clock=clock)
    for _ in range(2 * FAILURES_TO_OPEN):
        breaker.failed()
    pause = FIRST_PAUSE_NS
    for _ in range(8):
        clock.advance((pause - 1) / 1e9)
        assert not breaker.allows()
        clock.advance(1e-9)
        assert breaker.allows()
        breaker.failed()
        pause = min(2 * pause, LAST_PAUSE_NS)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://:p@h:1/2",
        "rediss://u:p@h:1",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://a:1,b:2/main",
        "rediss+sentinel://u:p@a,b/main/3",
        "redis+cluster://a:1,b:2",
        "rediss+cluster://a",
    ],
)
async def test_every_kind_of_redis_has_a_url(url: str) -> None:
    assert problem_of(url) is None
    await disconnect(connect(url, max_connections=2))


@pytest.mark.parametrize(
    "url",
    ["", "h:1", "http://h", "redis://", "redis://h:x", "redis://a,b", "redis+sentinel://a:1", "unix:run", "unix://"],
)
def test_a_url_that_names_no_redis_is_refused(url: str) -> None:
    assert problem_of(url)
    with pytest.raises(ValueError):
        connect(url, max_connections=2)
