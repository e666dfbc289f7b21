"""What the cache remembers and what it must forget, rule by rule, then against a simple model."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from bridge_sidecar.session_cache import (
    ENTRY_OVERHEAD_BYTES,
    CacheLimits,
    Entry,
    GapError,
    HeldDenial,
    Revocation,
    SessionCache,
    Ticket,
    weight,
)
from trust_core.modes import Binding, DenialReason

FOREVER = 10**15
A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def reason_of(held: HeldDenial | None) -> DenialReason | None:
    return None if held is None else held.reason


def _cache(
    *,
    max_entries: int = 100,
    max_bytes: int = 10**6,
    negative_max_entries: int = 10,
    negative_ttl_ns: int = 50,
    remembered: int = 100,
) -> SessionCache:
    return SessionCache(
        limits=CacheLimits(
            max_entries=max_entries,
            max_bytes=max_bytes,
            negative_max_entries=negative_max_entries,
            negative_ttl_ns=negative_ttl_ns,
            remembered_revocations=remembered,
        )
    )


def _entry(
    *, user_id: str = "u1", revision: int = 0, payload: bytes = b"p", idle: int = FOREVER, absolute: int = FOREVER
) -> Entry:
    return Entry(
        payload=payload,
        user_id=user_id,
        binding=Binding(),
        roles=frozenset(),
        authenticated_at_ns=0,
        revision=revision,
        absolute_expires_at_ns=absolute,
        idle_expires_at_ns=idle,
        filled_at_ns=0,
    )


def test_an_entry_dies_by_its_idle_deadline_and_a_hit_does_not_extend_it() -> None:
    cache = _cache()
    cache.insert(cache.ticket(), A, _entry(idle=100), 0)
    assert cache.get(A, 50)
    assert cache.get(A, 99)
    assert cache.get(A, 100) is None
    assert cache.entries == 0


def test_an_entry_dies_by_its_absolute_deadline_whatever_the_idle_deadline_became() -> None:
    cache = _cache()
    cache.insert(cache.ticket(), A, _entry(idle=100, absolute=150), 0)
    cache.extend_idle(A, 1_000)
    assert cache.get(A, 149)
    assert cache.get(A, 150) is None


def test_a_late_answer_does_not_shorten_the_idle_deadline() -> None:
    cache = _cache()
    cache.insert(cache.ticket(), A, _entry(idle=100), 0)
    cache.extend_idle(A, 40)
    cache.extend_idle(B, 40)
    assert cache.get(A, 99)


def test_what_is_dead_already_is_not_kept() -> None:
    cache = _cache()
    assert not cache.insert(cache.ticket(), A, _entry(idle=10), 10)
    assert not cache.insert(cache.ticket(), A, _entry(absolute=10), 10)


def test_a_fill_from_before_a_revocation_that_touches_it_is_dropped() -> None:
    cache = _cache()
    cache.apply(Revocation(revision=1, session_digest=A))
    cache.apply(Revocation(revision=2, user_id="u2"))
    assert not cache.insert(cache.ticket(), A, _entry(revision=0), 0)
    assert not cache.insert(cache.ticket(), B, _entry(user_id="u2", revision=1), 0)
    assert cache.insert(cache.ticket(), A, _entry(revision=1), 0)
    assert cache.insert(cache.ticket(), B, _entry(user_id="u2", revision=2), 0)
    assert cache.insert(cache.ticket(), C, _entry(user_id="u3", revision=0), 0)


def test_a_revocation_removes_the_session_or_all_of_the_users_and_nothing_else() -> None:
    cache = _cache()
    for digest, user_id in ((A, "u1"), (B, "u1"), (C, "u2")):
        cache.insert(cache.ticket(), digest, _entry(user_id=user_id), 0)
    cache.apply(Revocation(revision=1))
    assert cache.entries == 3
    cache.apply(Revocation(revision=2, session_digest=C))
    assert cache.get(C, 0) is None
    cache.apply(Revocation(revision=3, user_id="u1"))
    assert cache.entries == 0
    assert cache.weight_bytes == 0


def test_a_revocation_removes_even_an_entry_that_reflects_it_already() -> None:
    cache = _cache()
    cache.insert(cache.ticket(), A, _entry(revision=5), 0)
    cache.apply(Revocation(revision=1, session_digest=A))
    assert cache.get(A, 0) is None


@pytest.mark.parametrize("revision", [0, 1, 3, -1])
def test_a_revocation_out_of_turn_changes_nothing(revision: int) -> None:
    cache = _cache()
    cache.apply(Revocation(revision=1))
    cache.insert(cache.ticket(), A, _entry(revision=1), 0)
    with pytest.raises(GapError):
        cache.apply(Revocation(revision=revision, session_digest=A))
    assert cache.applied_revision == 1
    assert cache.get(A, 0)


def test_fills_older_than_what_was_forgotten_are_dropped_whatever_they_concern() -> None:
    cache = _cache(remembered=2)
    for revision, digest in ((1, A), (2, B), (3, C)):
        cache.apply(Revocation(revision=revision, session_digest=digest))
    unrelated = b"d" * 32
    assert cache.touched_since(unrelated, "u9", 0) == 1
    assert not cache.insert(cache.ticket(), unrelated, _entry(user_id="u9", revision=0), 0)
    assert cache.insert(cache.ticket(), unrelated, _entry(user_id="u9", revision=1), 0)


def test_forgetting_goes_by_revision_so_that_the_floor_never_sinks() -> None:
    cache = _cache(remembered=2)
    for revision, digest in ((1, A), (2, B), (3, A), (4, C), (5, b"d" * 32)):
        cache.apply(Revocation(revision=revision, session_digest=digest))
    assert cache.touched_since(A, "u9", 2) == 3
    assert not cache.insert(cache.ticket(), A, _entry(user_id="u9", revision=2), 0)


def test_touched_since_names_the_last_revision_that_touches_the_session() -> None:
    cache = _cache()
    cache.apply(Revocation(revision=1, session_digest=A))
    cache.apply(Revocation(revision=2, user_id="u1"))
    assert cache.touched_since(A, "u9", 0) == 1
    assert cache.touched_since(A, "u9", 1) is None
    assert cache.touched_since(A, "u1", 1) == 2
    assert cache.touched_since(B, "u9", 0) is None


def test_while_the_user_is_unknown_any_users_revocation_may_touch_the_session() -> None:
    cache = _cache()
    cache.apply(Revocation(revision=1, session_digest=B))
    assert not cache.may_touch_since(A, 0)
    assert cache.may_touch_since(B, 0)
    cache.apply(Revocation(revision=2, user_id="u9"))
    assert cache.may_touch_since(A, 1)
    assert not cache.may_touch_since(A, 2)


def test_a_reset_empties_the_cache_and_turns_away_answers_to_questions_asked_before() -> None:
    cache = _cache()
    ticket = cache.ticket()
    cache.insert(ticket, A, _entry(), 0)
    cache.insert_denial(ticket, B, DenialReason.REVOKED, 0, 0)
    cache.reset(log_id="log", revision=7)
    assert (cache.log_id, cache.applied_revision, cache.entries, cache.weight_bytes) == ("log", 7, 0, 0)
    assert cache.denial(B, 0) is None
    assert not cache.insert(ticket, A, _entry(revision=100), 0)
    assert not cache.insert_denial(ticket, A, DenialReason.REVOKED, 100, 0)
    assert not cache.insert(cache.ticket(), A, _entry(revision=6), 0)
    assert cache.insert(cache.ticket(), A, _entry(revision=7), 0)


def test_an_older_answer_does_not_replace_a_newer_one() -> None:
    cache = _cache()
    cache.insert(cache.ticket(), A, _entry(revision=2, payload=b"new"), 0)
    assert not cache.insert(cache.ticket(), A, _entry(revision=1, payload=b"old"), 0)
    assert not cache.insert_denial(cache.ticket(), A, DenialReason.REVOKED, 1, 0)
    entry = cache.get(A, 0)
    assert entry is not None
    assert entry.payload == b"new"


def test_a_later_denial_replaces_the_entry_and_keeps_an_earlier_fill_out() -> None:
    cache = _cache()
    cache.insert(cache.ticket(), A, _entry(revision=1), 0)
    assert cache.insert_denial(cache.ticket(), A, DenialReason.REVOKED, 3, 0)
    assert cache.get(A, 0) is None
    assert not cache.insert(cache.ticket(), A, _entry(revision=2), 0)
    assert reason_of(cache.denial(A, 0)) is DenialReason.REVOKED


@pytest.mark.parametrize("reason", [DenialReason.IDLE, DenialReason.USER_DISABLED])
def test_a_denial_that_may_change_is_not_remembered_but_still_drops_the_entry(reason: DenialReason) -> None:
    cache = _cache()
    cache.insert(cache.ticket(), A, _entry(revision=1), 0)
    assert not cache.insert_denial(cache.ticket(), A, reason, 1, 0)
    assert cache.get(A, 0) is None
    assert cache.denial(A, 0) is None


def test_a_denial_is_remembered_for_its_time_to_live() -> None:
    cache = _cache(negative_ttl_ns=50)
    cache.insert_denial(cache.ticket(), A, DenialReason.UNKNOWN, 0, 100)
    assert reason_of(cache.denial(A, 149)) is DenialReason.UNKNOWN
    assert cache.denial(A, 150) is None


def test_a_login_forgets_unknown_ids_even_those_whose_answers_are_on_their_way() -> None:
    cache = _cache()
    ticket = cache.ticket()
    cache.insert_denial(ticket, A, DenialReason.UNKNOWN, 0, 0)
    cache.insert_denial(ticket, B, DenialReason.REVOKED, 0, 0)
    cache.forget_unknown()
    assert cache.denial(A, 0) is None
    assert reason_of(cache.denial(B, 0)) is DenialReason.REVOKED
    assert not cache.insert_denial(ticket, A, DenialReason.UNKNOWN, 0, 0)
    assert cache.insert_denial(cache.ticket(), A, DenialReason.UNKNOWN, 0, 0)


def test_a_flood_of_unknown_ids_evicts_no_session() -> None:
    cache = _cache(max_entries=2, negative_max_entries=3)
    cache.insert(cache.ticket(), A, _entry(), 0)
    for number in range(100):
        cache.insert_denial(cache.ticket(), number.to_bytes(32), DenialReason.UNKNOWN, 0, 0)
    assert cache.get(A, 0)
    assert sum(cache.denial(number.to_bytes(32), 0) is not None for number in range(100)) == 3


def test_the_least_recently_used_session_goes_first() -> None:
    cache = _cache(max_entries=2)
    cache.insert(cache.ticket(), A, _entry(), 0)
    cache.insert(cache.ticket(), B, _entry(), 0)
    cache.get(A, 0)
    cache.insert(cache.ticket(), C, _entry(), 0)
    assert cache.get(A, 0)
    assert cache.get(B, 0) is None


def test_bytes_are_bounded_and_what_is_too_large_alone_is_not_kept() -> None:
    cache = _cache(max_bytes=3 * (ENTRY_OVERHEAD_BYTES + 10))
    for number in range(10):
        cache.insert(cache.ticket(), number.to_bytes(32), _entry(payload=b"x" * 10), 0)
    assert cache.entries == 3
    assert not cache.insert(cache.ticket(), A, _entry(payload=b"x" * 10_000), 0)
    assert cache.entries == 3


@dataclass
class Model:
    """What may be answered: fills that nothing later touches. No bounds, no index, no order."""

    log: list[Revocation] = field(default_factory=list)
    fills: dict[bytes, Entry] = field(default_factory=dict)

    def may_hold(self, digest: bytes, entry: Entry, now: int) -> bool:
        touched = [r.revision for r in self.log if r.session_digest == digest or r.user_id == entry.user_id]
        return (
            max(touched, default=0) <= entry.revision
            and now < entry.idle_expires_at_ns
            and now < entry.absolute_expires_at_ns
        )


DIGESTS = st.sampled_from([bytes([n]) * 32 for n in range(6)])
USERS = st.sampled_from(["u1", "u2", "u3"])


class CacheMachine(RuleBasedStateMachine):
    """The cache may forget what the model holds, and must never hold what the model does not."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.cache = _cache(
            max_entries=4, max_bytes=4 * (ENTRY_OVERHEAD_BYTES + 60), negative_max_entries=2, remembered=3
        )
        self.model = Model()
        self.generation = 0
        self.now = 0

    @rule(target=tickets)
    def ask(self) -> tuple[Ticket, int]:
        """A question is sent; upstream reads at the revision of now or a little later."""
        return self.cache.ticket(), self.generation

    @rule(
        ticket=tickets,
        digest=DIGESTS,
        user_id=USERS,
        lag=st.integers(-2, 4),
        size=st.integers(0, 100),
        idle=st.integers(1, 20),
        absolute=st.integers(1, 20),
    )
    def fill(
        self, ticket: tuple[Ticket, int], digest: bytes, user_id: str, lag: int, size: int, idle: int, absolute: int
    ) -> None:
        entry = _entry(
            user_id=user_id,
            revision=max(0, self.cache.applied_revision - lag),
            payload=b"x" * size,
            idle=self.now + idle,
            absolute=self.now + absolute,
        )
        if self.cache.insert(ticket[0], digest, entry, self.now):
            assert ticket[1] == self.generation
            assert self.model.may_hold(digest, entry, self.now)
            self.model.fills[digest] = entry

    @rule(ticket=tickets, digest=DIGESTS, lag=st.integers(0, 3), reason=st.sampled_from(list(DenialReason)))
    def deny(self, ticket: tuple[Ticket, int], digest: bytes, lag: int, reason: DenialReason) -> None:
        held = self.cache.denial(digest, self.now)
        revision = max(0, self.cache.applied_revision - lag)
        if self.cache.insert_denial(ticket[0], digest, reason, revision, self.now):
            assert ticket[1] == self.generation
            assert self.cache.get(digest, self.now) is None
            assert reason_of(self.cache.denial(digest, self.now)) is reason
        elif held is None:
            assert self.cache.denial(digest, self.now) is None

    @rule(digest=st.none() | DIGESTS, user_id=st.none() | USERS)
    def revoke(self, digest: bytes | None, user_id: str | None) -> None:
        target = {"session_digest": digest or b""} if digest else {"user_id": user_id or ""}
        revocation = Revocation(revision=self.cache.applied_revision + 1, **target)
        self.cache.apply(revocation)
        self.model.log.append(revocation)
        for held in [d for d, e in self.model.fills.items() if d == digest or (not digest and e.user_id == user_id)]:
            del self.model.fills[held]

    @rule(revision=st.integers(0, 5))
    def reset(self, revision: int) -> None:
        self.cache.reset(log_id="log", revision=revision)
        self.model = Model()
        self.generation += 1

    @rule()
    def login(self) -> None:
        self.cache.forget_unknown()
        assert all(
            reason_of(self.cache.denial(bytes([n]) * 32, self.now)) is not DenialReason.UNKNOWN for n in range(6)
        )

    @rule(nanoseconds=st.integers(1, 10))
    def pass_time(self, nanoseconds: int) -> None:
        self.now += nanoseconds

    @rule(digest=DIGESTS)
    def look(self, digest: bytes) -> None:
        entry = self.cache.get(digest, self.now)
        if entry is not None:
            assert entry is self.model.fills[digest]
            assert self.model.may_hold(digest, entry, self.now)
            assert self.cache.denial(digest, self.now) is None

    @invariant()
    def bounds_and_index_are_exact(self) -> None:
        entries = self.cache._entries
        assert len(entries) == self.cache.entries <= 4
        assert (
            sum(weight(entries.peek(d)) for d in entries)
            == self.cache.weight_bytes
            <= 4 * (ENTRY_OVERHEAD_BYTES + 60)
        )
        indexed = {(user, digest) for user in entries.users() for digest in entries.digests_of(user)}
        assert indexed == {(entries.peek(d).user_id, d) for d in entries}
        assert len(self.cache._denials) <= 2
        assert len(self.cache._touched) <= 3


CacheMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestCacheAgainstAModel = CacheMachine.TestCase
