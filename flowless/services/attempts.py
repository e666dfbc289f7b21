"""Limits on attempts at passwords and trust tokens: a wait that grows, and no lock that an attacker could set.

An attempt is counted before anything is checked, in one step with its judgement, so that of many at once no more are
checked than one after the other would be. One that is refused is not checked at all and says nothing but how long
to wait. Unknown accounts are counted like known ones: nothing here knows which is which.

Shared state: counters of refusals, touched by the event loop only; the metrics thread reads them.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from flowless.domain.attempts import (
    DAY,
    HOUR,
    KNOWN_SECONDS,
    MINUTE,
    AttemptKind,
    AttemptLimits,
    Hit,
    Limit,
    network_of,
)
from flowless.domain.audit import Action, Actor, Outcome
from flowless.ports.attempts import AttemptCounters
from flowless.ports.audit import AuditRecorder
from trust_core.clock import Clock
from trust_core.errors import Reason, TrustError
from trust_core.modes import RequestContext

_KNOWN: Final = Limit(name="known", amount=1, seconds=KNOWN_SECONDS)
_SAID: Final = Limit(name="said", amount=1, seconds=MINUTE)
_DELAYED: Final = Limit(name="delayed", amount=1_000_000, seconds=DAY)  # read, never judged
_NOT_CHECKED: Final = frozenset(
    (
        Reason.INVALID_FIELD,
        Reason.HASHING_OVERLOADED,
        Reason.STORAGE_UNAVAILABLE,
        Reason.STORAGE_FULL,
        Reason.SIGNING_NOT_CONFIGURED,
        Reason.MAIL_NOT_CONFIGURED,
        Reason.EMAIL_TAKEN,
        Reason.USER_NAME_TAKEN,
    )
)
"""Errors that do not say that the secret was wrong: whoever gets one has not failed. Whatever else happens counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Keys of one attempt: who is attempted, from where, with which device; all digests. Empty: not told."""

    account: str
    network: str
    account_network: str
    account_device: str


class AttemptLimiter:
    """See the module."""

    def __init__(
        self, *, counters: AttemptCounters, limits: AttemptLimits, audit: AuditRecorder, key: bytes, clock: Clock
    ) -> None:
        """`key` digests what is counted; replicas that count in common share it."""
        self.counters = counters
        self.limits = limits
        self._audit = audit
        self._key = key
        self._clock = clock
        self.refused = dict.fromkeys(AttemptKind, 0)

    def attempt(
        self, kind: AttemptKind, *, account: str, context: RequestContext, by: Actor, user_id: str = ""
    ) -> "Attempt":
        """Open the block in which a secret is checked; leaving it by LOGIN_REFUSED or another error is a failure.

        `account` names whom the secret is of, in one spelling; empty when nobody knows before it is checked.
        `user_id` is for the audit log only. Errors, at the start: TOO_MANY_ATTEMPTS, with the time to wait.
        """
        return Attempt(self, kind=kind, place=self._place(kind, account, context), by=by, user_id=user_id)

    async def vouch(self, *, account: str, context: RequestContext) -> None:
        """Note that the account's own user is here, who proved it by other means than a password."""
        place = self._place(AttemptKind.LOGIN, account, context)
        for pair in filter(None, (place.account_network, place.account_device)):
            await self.remember(pair)

    async def remember(self, pair: str) -> None:
        """Count a network or a device as the account's own from now on."""
        await self.counters.clear(_KNOWN, pair)
        await self.counters.hit(_KNOWN, pair)

    async def known(self, place: _Place) -> list[str]:
        """Find those of the attempt's pairs that have succeeded before."""
        pairs = (place.account_device, place.account_network)
        return [pair for pair in pairs if pair and await self.counters.count(_KNOWN, pair) > 0]

    async def refuse(self, kind: AttemptKind, limit: str, key: str, seconds: int, *, by: Actor, user_id: str) -> None:
        """Raise TOO_MANY_ATTEMPTS; leave one audit event a minute and key."""
        self.refused[kind] += 1
        if (await self.counters.hit(_SAID, key)).within:
            await self._audit.record(
                by.event(
                    Action.ATTEMPTS_LIMITED,
                    now=self._clock.now(),
                    outcome=Outcome.REFUSED,
                    subject=user_id,
                    user_id=user_id,
                    kind=kind.value,
                    limit=limit,
                )
            )
        raise TrustError(Reason.TOO_MANY_ATTEMPTS, "too many attempts; retry later", retry_after=float(seconds))

    def digest(self, *parts: str) -> str:
        """Digest what is counted, so that no address and no login name is kept anywhere."""
        text = b"".join(
            len(part).to_bytes(4, "big") + part for part in (p.encode("utf-8", "surrogatepass") for p in parts)
        )
        return hmac.digest(self._key, b"trustlayer attempts 1\0" + text, "sha256").hex()

    def _place(self, kind: AttemptKind, account: str, context: RequestContext) -> _Place:
        network, device = network_of(context.client_ip), context.device_fingerprint
        return _Place(
            account=self.digest("account", kind.budget, account) if account else "",
            network=self.digest("network", network) if network else "",
            account_network=self.digest("pair", kind.budget, account, network) if account else "",
            account_device=self.digest("device", kind.budget, account, device) if account and device else "",
        )


class Attempt:
    """One attempt, as `AttemptLimiter.attempt` describes it. What it took is given back if it was no failure."""

    def __init__(self, limiter: AttemptLimiter, *, kind: AttemptKind, place: _Place, by: Actor, user_id: str) -> None:
        self._limiter = limiter
        self._counters = limiter.counters
        self._limits = limiter.limits
        self._kind = kind
        self._place = place
        self._by = by
        self._user_id = user_id
        self._taken: list[tuple[Limit, str]] = []
        self._gate: tuple[Limit, str] | None = None
        self._pair = ""

    async def __aenter__(self) -> Self:
        limits, place = self._limits, self._place
        bridge = self._limiter.digest("bridge", self._by.name)
        await self._take(Limit(name="bridge", amount=limits.per_bridge_per_minute, seconds=MINUTE), bridge)
        known = await self._limiter.known(place) if place.account else []
        # Whoever else is behind its address does not shut out a device that has logged in before.
        if place.network and place.account_device not in known:
            await self._take(Limit(name="ip", amount=limits.per_ip_per_minute, seconds=MINUTE), place.network)
            failed = Limit(name="ip_failed", amount=limits.failed_per_ip_per_hour, seconds=HOUR)
            await self._take(failed, place.network, returns=True)
        if place.account:
            await self._take_of_account(known)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._kind.proves:
            await self._give_back()
            await self._succeeded()
        elif isinstance(error, TrustError) and error.reason in _NOT_CHECKED:
            await self._give_back()

    async def _take(self, limit: Limit, key: str, *, returns: bool = False) -> None:
        hit = await self._counters.hit(limit, key)
        if not hit.within:
            await self._refuse(limit.name, key, hit.seconds_left)
        if returns:
            self._taken.append((limit, key))

    async def _take_of_account(self, known: Sequence[str]) -> None:
        """Go by the first of the account's own budgets that has room; without one, by the network's and everybody's.

        The network's comes first: what it refuses does not use up what is for all other networks together.
        """
        place = self._place
        waits = []
        for pair in known or [place.account_network]:
            hit = await self._enter(pair)
            if hit.within:
                self._pair = pair
                break
            waits.append(hit.seconds_left)
        else:
            await self._refuse("account", place.account_network, min(waits))
        if not known:
            failed = Limit(name="account_failed", amount=self._limits.failed_per_account_per_day, seconds=DAY)
            await self._take(failed, place.account, returns=True)

    async def _enter(self, pair: str) -> Hit:
        """Take one of the free attempts, or else the only one that the wait lets through; it sets the next wait."""
        free = Limit(name="free", amount=self._limits.free, seconds=DAY)
        if (await self._counters.hit(free, pair)).within:
            self._taken.append((free, pair))
            return Hit(within=True, seconds_left=0)
        delayed = await self._counters.count(_DELAYED, pair)
        gate = Limit(name="gate", amount=1, seconds=self._limits.delay_seconds(delayed))
        hit = await self._counters.hit(gate, pair)
        if hit.within:
            await self._counters.hit(_DELAYED, pair)
            self._gate = (gate, pair)
        return hit

    async def _refuse(self, limit: str, key: str, seconds: int) -> None:
        """Refuse; nothing was checked, so what one limit took before another refused is given back."""
        await self._give_back()
        await self._limiter.refuse(self._kind, limit, key, seconds, by=self._by, user_id=self._user_id)

    async def _give_back(self) -> None:
        for limit, key in self._taken:
            await self._counters.hit(limit, key, cost=-1)
        if self._gate is not None:
            gate, pair = self._gate
            await self._counters.clear(gate, pair)
            await self._counters.hit(_DELAYED, pair, cost=-1)

    async def _succeeded(self) -> None:
        """Forget the failures of this network or device, and only of these; know both from now on.

        NIST SP 800-63B-4 section 3.2.2: after a success, earlier failures from the same address are disregarded.
        """
        if self._pair:
            for name in ("free", "gate", "delayed"):
                await self._counters.clear(Limit(name=name, amount=1, seconds=DAY), self._pair)
        place = self._place
        for pair in filter(None, (place.account_network, place.account_device)):
            await self._limiter.remember(pair)
