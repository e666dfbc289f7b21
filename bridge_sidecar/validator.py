"""Is this session valid for this request? The hit, the coalesced miss, and the refusal.

The order of a question:

1. The checksum. What is not a session id is denied without asking anybody.
2. The cache, if the lease is held and the log is applied as far as this caller needs. Between lookup and answer
   there is no await, no lock and no log line, so a hit never waits for a miss.
3. Flowless. Equal misses share one call ("flight"). Whatever cannot be known is an error, never a denial.
4. Beyond the lease, only where the rule of the route grants it: see `_beyond_lease`. Off by default.

What a session that is active must satisfy beside that (mode, roles, age of the proof) is the rule's: see `_refusal`.

Why sharing a call keeps the guarantee. A flight's answer may be older than a request that joined it, but not by
more than `upstream_timeout`, which the configuration keeps at or below `max_staleness`: a session that was revoked
before the request started by more than that was revoked before the flight's question was sent. Three rules make it
tighter in the usual case: nobody joins a flight that a revocation applied since may touch; an answer is thrown away
and asked again when a later revocation that touches it has been applied meanwhile; and a caller who needs a later
revision than the flight asked for starts a flight of their own.

Without a lease nobody can tell what has been revoked since a question was sent, and a revoke that waits for all
sidecars does not wait for this one: then a flight is joined only before its question is sent. Under load that is
while it waits for a slot, so equal questions are still shared.

One event loop runs all of this. A flight is a task of its own, so it does not die with the first caller who gives
up; it is cancelled when the last one has gone.
"""

import asyncio
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol

from bridge_sidecar.lease import Lease
from bridge_sidecar.mismatches import MismatchReporter
from bridge_sidecar.routes import OnMismatch, Rule
from bridge_sidecar.session_cache import Entry, SessionCache
from trust_core import logs, request_ids
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import Code, Reason, TrustError
from trust_core.identifiers import session_digest
from trust_core.modes import MISMATCHES, Binding, DenialReason, RequestContext, ValidationMode, check

_RE_ASKS: Final = 2
_NEVER: Final = -(2**63)
_FLOWLESS_SAID: Final = frozenset((Reason.UPSTREAM_REFUSED_BRIDGE, Reason.REVISION_NOT_REACHED))


class Tier(IntEnum):
    """Who knew the answer. Numbers as in `trustlayer.v1.Tier`; a test holds the two together."""

    NONE = 1
    LRU = 2
    REDIS = 3
    DATABASE = 4


@dataclass(slots=True, kw_only=True)
class Question:
    """One request of the app. `min_revision` 0 takes any state within the guarantee.

    `mode` is the one that holds, after the rule has had its say (`RouteTable.mode_of`).
    """

    session_id: str
    mode: ValidationMode
    context: RequestContext
    rule: Rule
    min_revision: int = 0


class Verdict(NamedTuple):
    """A definite answer: the session's payload, or the number of a denial reason (0 for none).

    `beyond_lease_ns`: how long before the answer the lease had run out; `None` for one within the guarantee.
    """

    payload: bytes
    denial: int
    tier: int
    revision: int
    age_ns: int
    beyond_lease_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveSession:
    """What upstream says of a session that is active. Times left are as of upstream's reading."""

    payload: bytes
    user_id: str
    binding: Binding
    roles: frozenset[str]
    authentication_age_ns: int
    absolute_remaining_ns: int
    idle_remaining_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamAnswer:
    """A definite answer from upstream: `active`, or the number of a denial reason."""

    active: ActiveSession | None
    denial: int
    tier: int
    revision: int


class _Landed(NamedTuple):
    """What a flight brought, and when the question that it answers was sent."""

    answer: UpstreamAnswer
    sent_at_ns: int


class SessionSource(Protocol):
    """Who is asked on a miss."""

    async def validate_session(self, session_id: str, *, min_revision: int, timeout_seconds: float) -> UpstreamAnswer:
        """Return a definite answer, or raise `TrustError` for whatever keeps it from being known."""
        ...


class ActivitySink(Protocol):
    """Who wants to know that a session was used."""

    def record(self, digest: bytes, *, now_ns: int, idle_expires_at_ns: int) -> None:
        """Note the use. Called on the hit path: cheap, and never raises."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MissLimits:
    """Bounds of what may be asked upstream at one time."""

    max_concurrent: int
    max_waiting: int
    upstream_timeout_seconds: float


def _no_denials() -> dict[int, int]:
    return {0: 0, **{int(reason): 0 for reason in DenialReason}}


@dataclass(slots=True, kw_only=True)
class Counters:
    """Since start; `GetStatus` shows them. `denials` by the number of the reason, unknown numbers under 0."""

    hits: int = 0
    misses: int = 0
    malformed: int = 0
    unavailable: int = 0
    upstream_calls: int = 0
    prewarmed: int = 0
    beyond_lease: int = 0
    denials: dict[int, int] = field(default_factory=_no_denials)

    def denied(self, reason: int) -> None:
        """Count a denial. A newer Flowless may know more reasons; the keys stay those that are known here."""
        self.denials[reason if reason in self.denials else 0] += 1


class _Flight:
    """One shared question to upstream. `seen_revision` is what the cache had applied when it was last sent."""

    __slots__ = ("asked_by", "begun_at_ns", "generation", "min_revision", "seen_revision", "sent", "task", "waiters")

    def __init__(self, *, min_revision: int, seen_revision: int, generation: int, begun_at_ns: int) -> None:
        self.asked_by = request_ids.running()
        self.begun_at_ns = begun_at_ns
        self.min_revision = min_revision
        self.seen_revision = seen_revision
        self.generation = generation
        self.sent = False
        self.waiters = 0
        self.task: asyncio.Task[_Landed] | None = None


class Validator:
    """See the module."""

    def __init__(
        self,
        *,
        cache: SessionCache,
        lease: Lease,
        source: SessionSource,
        activity: ActivitySink,
        clock: Clock,
        limits: MissLimits,
        mismatches: MismatchReporter,
    ) -> None:
        self._cache = cache
        self._lease = lease
        self._source = source
        self._activity = activity
        self._clock = clock
        self._limits = limits
        self._max_age_ns = round(limits.upstream_timeout_seconds * NS_PER_SECOND)
        self._slots = asyncio.Semaphore(limits.max_concurrent)
        self._joinable: dict[bytes, _Flight] = {}
        self._flying: set[asyncio.Task[_Landed]] = set()
        self._observed_log = ""
        self._observed_revision = 0
        self._heard_log = ""
        self._heard_revision = 0
        self._mismatches = mismatches
        self._log: Any = logs.get_logger("bridge-sidecar")
        # When the last question to upstream failed, unless one succeeded since. Touched by the event loop only, as
        # everything here; it only decides whether a granted route waits before it is served beyond the lease.
        self._failed_at_ns = _NEVER
        self.counters = Counters()

    def observe_revision(self, revision: int, *, log_id: str) -> None:
        """Note that this app wrote the log, so that it reads its own writes here.

        Until the cache has applied `revision`, questions go upstream and demand it. `log_id` is the cache's log
        when the write was sent: a revision of a log that has been replaced since means nothing and is ignored,
        or every later question would wait for a revision that may never come.
        """
        if log_id not in ("", self._cache.log_id):
            return
        if self._observed_log not in ("", self._cache.log_id):
            self._observed_revision = 0
        self._observed_log = self._cache.log_id
        self._observed_revision = max(self._observed_revision, revision)

    def _hear(self, revision: int) -> None:
        """Note how far upstream's log reaches, by an answer of it. Nothing is decided by that; operators see it."""
        log_id = self._cache.log_id
        if self._heard_log != log_id:
            self._heard_log, self._heard_revision = log_id, 0
        self._heard_revision = max(self._heard_revision, revision)

    @property
    def known_revision(self) -> int:
        """The furthest revision of the log that this sidecar knows of: applied, or heard of in an answer."""
        applied, log_id = self._cache.applied_revision, self._cache.log_id
        heard = self._heard_revision if self._heard_log == log_id else 0
        observed = self._observed_revision if self._observed_log == log_id else 0
        return max(applied, heard, observed)

    @property
    def misses_under_way(self) -> int:
        """How many different questions are being asked upstream, or wait for their turn."""
        return len(self._flying)

    def _needed(self, min_revision: int) -> int:
        log_id = self._cache.log_id
        if self._observed_log != log_id:
            if self._observed_log:
                return min_revision
            self._observed_log = log_id  # observed before the first log was known: this one
        return max(min_revision, self._observed_revision)

    async def validate(self, question: Question) -> Verdict:
        """Answer the question. Raises `TrustError` (UNAVAILABLE) when the answer cannot be known.

        Where the rule says so, a request from somewhere else than the login is answered only after Flowless was told
        of it, or could not be.
        """
        verdict = await self._answer(question)
        if verdict.denial:
            self.counters.denied(verdict.denial)
        if verdict.denial in MISMATCHES and question.rule.on_mismatch is OnMismatch.REVOKE:
            log_id = self._cache.log_id
            revision = await self._mismatches.report(
                question.session_id, question.mode, question.context, question.rule
            )
            self.observe_revision(revision, log_id=log_id)
        return verdict

    async def _answer(self, question: Question) -> Verdict:
        digest = session_digest(question.session_id)
        if digest is None:
            self.counters.malformed += 1
            return Verdict(b"", DenialReason.MALFORMED, Tier.NONE, 0, 0)
        verdict = self._from_cache(digest, question)
        if verdict is not None:
            self.counters.hits += 1
            return verdict
        self.counters.misses += 1
        grant_ns = question.rule.serve_beyond_lease_ns if question.mode is ValidationMode.STANDARD else 0
        if grant_ns and self._clock.elapsed_ns() - self._failed_at_ns < self._max_age_ns:
            verdict = self._beyond_lease(digest, question, grant_ns)
            if verdict is not None:
                return verdict
        try:
            return await self._from_upstream(digest, question)
        except TrustError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            # A refused bridge may have been revoked by the operator of Flowless, with what it was trusted to hold.
            if grant_ns and error.reason is not Reason.UPSTREAM_REFUSED_BRIDGE:
                verdict = self._beyond_lease(digest, question, grant_ns)
                if verdict is not None:
                    return verdict
            self.counters.unavailable += 1
            raise

    def _beyond_lease(self, digest: bytes, question: Question, grant_ns: int) -> Verdict | None:
        """Answer a granted route from the cache although the lease ran out, for less than `grant_ns` ago.

        Only for STANDARD mode and where upstream could not answer. What is known of revocations counts as ever: what
        an applied one touched is not in the cache any more, and a revision that this app wrote or demands and that is
        not applied yet may be one. A lease that was dropped, or whose Flowless refuses this sidecar, gives nothing.
        A denial that is remembered says nothing here: the error stays.
        """
        now_ns = self._clock.elapsed_ns()
        ago_ns = self._lease.ran_out_ns(now_ns)
        applied = self._cache.applied_revision
        if ago_ns is None or ago_ns >= grant_ns or applied < self._needed(question.min_revision):
            return None
        entry = self._cache.get(digest, now_ns)
        if entry is None:
            return None
        self.counters.beyond_lease += 1
        revision, age_ns = max(applied, entry.revision), now_ns - entry.filled_at_ns
        refusal = _refusal(question, entry.binding, entry.roles, now_ns - entry.authenticated_at_ns)
        if refusal is not None:
            return Verdict(b"", refusal, Tier.LRU, revision, age_ns, ago_ns)
        self._activity.record(digest, now_ns=now_ns, idle_expires_at_ns=entry.idle_expires_at_ns)
        return Verdict(entry.payload, 0, Tier.LRU, revision, age_ns, ago_ns)

    def _from_cache(self, digest: bytes, question: Question) -> Verdict | None:
        now_ns = self._clock.elapsed_ns()
        applied = self._cache.applied_revision
        if not self._lease.held(now_ns) or applied < self._needed(question.min_revision):
            return None
        entry = self._cache.get(digest, now_ns)
        if entry is None:
            held = self._cache.denial(digest, now_ns)
            return None if held is None else Verdict(b"", held.reason, Tier.LRU, applied, now_ns - held.learnt_at_ns)
        revision = max(applied, entry.revision)
        age_ns = now_ns - entry.filled_at_ns
        refusal = _refusal(question, entry.binding, entry.roles, now_ns - entry.authenticated_at_ns)
        if refusal is not None:
            return Verdict(b"", refusal, Tier.LRU, revision, age_ns)
        self._activity.record(digest, now_ns=now_ns, idle_expires_at_ns=entry.idle_expires_at_ns)
        return Verdict(entry.payload, 0, Tier.LRU, revision, age_ns)

    async def _from_upstream(self, digest: bytes, question: Question) -> Verdict:
        answer, sent_at_ns = await self._share(digest, question.session_id, self._needed(question.min_revision))
        now_ns = self._clock.elapsed_ns()
        age_ns = now_ns - sent_at_ns
        active = answer.active
        if active is None:
            return Verdict(b"", answer.denial, answer.tier, answer.revision, age_ns)
        # Timers stand still while the machine sleeps, our clock does not: what woke up with us is not trusted.
        if age_ns > self._max_age_ns or age_ns >= min(active.absolute_remaining_ns, active.idle_remaining_ns):
            raise TrustError(Reason.UPSTREAM_UNAVAILABLE, "the answer came too late to be trusted; ask again")
        refusal = _refusal(question, active.binding, active.roles, age_ns + active.authentication_age_ns)
        if refusal is not None:
            return Verdict(b"", refusal, answer.tier, answer.revision, age_ns)
        self._activity.record(digest, now_ns=now_ns, idle_expires_at_ns=sent_at_ns + active.idle_remaining_ns)
        return Verdict(active.payload, 0, answer.tier, answer.revision, age_ns)

    async def _share(self, digest: bytes, session_id: str, min_revision: int) -> _Landed:
        """Wait for a flight that may answer this caller: one under way, or a new one."""
        flight = self._joinable.get(digest)
        if flight is None or not self._may_join(flight, digest, min_revision):
            flight = self._take_off(digest, session_id, min_revision)
        elif flight.asked_by is not None:
            # Flowless and its database know the question by the id of the request that began it.
            self._log.debug("question shared", asked_by=flight.asked_by.get())
        task = flight.task
        assert task is not None  # noqa: S101 - set by _take_off, for mypy
        flight.waiters += 1
        try:
            return await asyncio.shield(task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0 and not task.done():
                self._close_to_joiners(digest, flight)
                task.cancel()

    def _may_join(self, flight: _Flight, digest: bytes, min_revision: int) -> bool:
        now_ns = self._clock.elapsed_ns()
        return (
            flight.min_revision >= min_revision
            and (not flight.sent or self._lease.held(now_ns))
            and now_ns - flight.begun_at_ns <= 2 * self._max_age_ns  # a slot, then an answer
            and flight.generation == self._cache.generation
            and not self._cache.may_touch_since(digest, flight.seen_revision)
        )

    def _take_off(self, digest: bytes, session_id: str, min_revision: int) -> _Flight:
        if len(self._flying) >= self._limits.max_concurrent + self._limits.max_waiting:
            raise TrustError(Reason.TOO_MANY_MISSES, "too many questions wait for Flowless already")
        flight = _Flight(
            min_revision=min_revision,
            seen_revision=self._cache.applied_revision,
            generation=self._cache.generation,
            begun_at_ns=self._clock.elapsed_ns(),
        )
        flight.task = asyncio.create_task(self._fly(flight, digest, session_id))
        self._flying.add(flight.task)
        self._joinable[digest] = flight

        def landed(task: asyncio.Task[_Landed]) -> None:
            self._flying.discard(task)
            self._close_to_joiners(digest, flight)

        flight.task.add_done_callback(landed)
        return flight

    def _close_to_joiners(self, digest: bytes, flight: _Flight) -> None:
        if self._joinable.get(digest) is flight:
            del self._joinable[digest]

    async def _fly(self, flight: _Flight, digest: bytes, session_id: str) -> _Landed:
        """Wait for a slot, then ask; each of the two for at most the upstream timeout."""
        timeout = self._limits.upstream_timeout_seconds
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise TrustError(Reason.TOO_MANY_MISSES, "no slot to ask Flowless became free in time") from None
        try:
            async with asyncio.timeout(timeout):
                return await self._ask(flight, digest, session_id)
        except TimeoutError:
            self._failed_at_ns = self._clock.elapsed_ns()
            raise TrustError(Reason.UPSTREAM_UNAVAILABLE, "Flowless did not answer in time") from None
        finally:
            self._slots.release()

    async def _ask(self, flight: _Flight, digest: bytes, session_id: str) -> _Landed:
        """Ask until neither revocation nor expiry outran the answer, a few times at most; keep what may be kept."""
        cache = self._cache
        demanded = flight.min_revision
        for _ in range(1 + _RE_ASKS):
            ticket = cache.ticket()
            flight.seen_revision, flight.generation, flight.sent = cache.applied_revision, cache.generation, True
            sent_at_ns = self._clock.elapsed_ns()
            self.counters.upstream_calls += 1
            try:
                answer = await self._source.validate_session(
                    session_id, min_revision=demanded, timeout_seconds=self._limits.upstream_timeout_seconds
                )
            except TrustError as error:
                self._note_failure(error.reason)
                raise
            self._failed_at_ns = _NEVER
            if answer.revision < demanded:
                raise TrustError(Reason.REVISION_NOT_REACHED, "Flowless answered from before the revision asked for")
            if ticket.generation != cache.generation:
                demanded = flight.min_revision
                continue
            self._hear(answer.revision)
            now_ns = self._clock.elapsed_ns()
            active = answer.active
            if active is None:
                cache.insert_denial(ticket, digest, answer.denial, answer.revision, now_ns)
                return _Landed(answer, sent_at_ns)
            if now_ns - sent_at_ns >= min(active.absolute_remaining_ns, active.idle_remaining_ns):
                continue
            later = cache.touched_since(digest, active.user_id, answer.revision)
            if later is None:
                entry = entry_of(active, revision=answer.revision, sent_at_ns=sent_at_ns)
                cache.insert(ticket, digest, entry, now_ns)
                return _Landed(answer, sent_at_ns)
            demanded = later
        raise TrustError(Reason.UPSTREAM_UNAVAILABLE, "revocations or expiry outran every answer; ask again")

    def _note_failure(self, reason: Reason) -> None:
        """Remember that upstream failed. A reason that Flowless itself gave is no such failure: it can be asked."""
        self._failed_at_ns = _NEVER if reason in _FLOWLESS_SAID else self._clock.elapsed_ns()
        if reason is Reason.UPSTREAM_REFUSED_BRIDGE:
            self._lease.make_final()

    async def close(self) -> None:
        """Cancel what is still in flight. Callers who wait for it see their calls cancelled."""
        flying = tuple(self._flying)
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)


def _refusal(
    question: Question, binding: Binding, roles: frozenset[str], authentication_age_ns: int
) -> DenialReason | None:
    """Say why a session that is active is not good for this request; `None` lets it pass."""
    rule = question.rule
    return check(question.mode, binding, question.context, rule.ip_prefixes) or rule.refusal(
        roles=roles, authentication_age_ns=authentication_age_ns
    )


def entry_of(active: ActiveSession, *, revision: int, sent_at_ns: int) -> Entry:
    """Make what the cache keeps of a session, with deadlines counted from when the question was sent."""
    return Entry(
        payload=active.payload,
        user_id=active.user_id,
        binding=active.binding,
        roles=active.roles,
        authenticated_at_ns=sent_at_ns - active.authentication_age_ns,
        revision=revision,
        absolute_expires_at_ns=sent_at_ns + active.absolute_remaining_ns,
        idle_expires_at_ns=sent_at_ns + active.idle_remaining_ns,
        filled_at_ns=sent_at_ns,
    )
