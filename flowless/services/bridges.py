"""Use cases of bridges: create, list, bind, rotate, revoke, authenticate.

Shared state: the cache of authenticated bridges and the look-ups under way, touched by the event loop only.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from flowless.domain.audit import Action, Actor
from flowless.domain.bridges import (
    BRIDGE_NAME,
    Bridge,
    BridgeSecret,
    ClientCertificate,
    Scope,
    is_client_id,
)
from flowless.domain.fields import Fields
from flowless.domain.revocations import Revocation
from flowless.ports.stores import BridgeStore
from flowless.services.bridge_uses import UseRecorder
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import (
    RandomBytes,
    bridge_of_secret,
    digest,
    is_bridge_id,
    new_bridge_id,
    new_bridge_secret,
)

MAX_OVERLAP: Final = timedelta(days=30)
_CACHE_SECONDS: Final = 2.0
_STALE: Final = -(2**62)
_CACHE_ENTRIES: Final = 1024
_MAX_STRANGERS: Final = 2
"""Look-ups in storage at one time of bridges that were not seen before."""
_MAX_LOOK_UPS: Final = 1024
_STRANGER_WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSecret:
    """A bridge with a secret that is shown this once."""

    bridge: Bridge
    secret: str


def _refused() -> TrustError:
    return TrustError(Reason.BRIDGE_CREDENTIAL_REFUSED, "the bridge credential is not valid")


def _check_client_id(client_id: str, fields: Fields) -> None:
    if client_id and not is_client_id(client_id):
        fields.add("client_id", "spiffe://trust-domain/path, or a DNS name in lower case without wildcard")


def _too_many_strangers() -> TrustError:
    return TrustError(Reason.TOO_MANY_CALLS, "too many unknown credentials at once; retry later")


class Bridges:
    """Bridges and their secrets.

    A bridge read for authentication is trusted for at most two seconds, and less when the revocation log says that
    it changed (`on_revocation`). Calls of one bridge share a look-up. Bridges that were not seen before are looked
    up few at a time and wait in bounded number and time: made-up credentials cannot take the database from those
    who have real ones.
    """

    def __init__(self, *, store: BridgeStore, uses: UseRecorder, clock: Clock, random: RandomBytes) -> None:
        self._store = store
        self._uses = uses
        self._clock = clock
        self._random = random
        self._cache: dict[str, tuple[int, Bridge]] = {}
        self._forgotten = 0
        self._stranger_slots = asyncio.Semaphore(_MAX_STRANGERS)
        self._look_ups: dict[tuple[str, int], asyncio.Future[Bridge | None]] = {}

    async def create(self, name: str, scopes: frozenset[Scope], *, client_id: str = "", by: Actor) -> NewSecret:
        """Create a bridge, bound to a client if one is named. Errors: INVALID_FIELD, BRIDGE_NAME_TAKEN."""
        fields = Fields()
        fields.matching("name", name, BRIDGE_NAME, "1 to 64 letters, digits, '.', '_', '-', beginning with no mark")
        if not scopes:
            fields.add("scopes", "at least one")
        _check_client_id(client_id, fields)
        fields.refuse()
        now = self._clock.now()
        bridge_id = new_bridge_id(self._random)
        secret = new_bridge_secret(bridge_id, self._random)
        bridge = Bridge(
            id=bridge_id,
            name=name,
            scopes=scopes,
            created_at=now,
            client_id=client_id,
            secrets=(BridgeSecret(digest=digest(secret), created_at=now),),
        )
        names = sorted(scope.name for scope in scopes)
        event = by.event(Action.BRIDGE_CREATE, now=now, subject=bridge_id, scopes=names, client_id=client_id)
        await self._store.add(bridge, event=event)
        return NewSecret(bridge=bridge, secret=secret)

    async def list(self) -> Sequence[Bridge]:
        """List all bridges in the order of their names."""
        return await self._store.list()

    async def find(self, id_or_name: str) -> Bridge:
        """Find by id or name. Errors: BRIDGE_NOT_FOUND."""
        found = None
        if BRIDGE_NAME.fullmatch(id_or_name):
            found = await self._store.get(id_or_name) or await self._store.find(id_or_name)
        if found is None:
            raise TrustError(Reason.BRIDGE_NOT_FOUND, "no such bridge")
        return found

    async def bind(self, bridge_id: str, client_id: str, *, by: Actor) -> Bridge:
        """Let the bridge's secrets be good only with that client's certificate; empty: with any or none.

        Streams that do not satisfy it end. Errors: INVALID_FIELD, BRIDGE_NOT_FOUND.
        """
        fields = Fields()
        self._check_id(bridge_id, fields)
        _check_client_id(client_id, fields)
        fields.refuse()
        now = self._clock.now()
        event = by.event(Action.BRIDGE_BIND, now=now, subject=bridge_id, client_id=client_id)
        revision = await self._store.bind(bridge_id, client_id, now=now, event=event)
        bridge = await self._store.get(bridge_id) if revision is not None else None
        if bridge is None:
            raise TrustError(Reason.BRIDGE_NOT_FOUND, "no such live bridge")
        self._forget(bridge_id)
        return bridge

    async def rotate(self, bridge_id: str, *, overlap: timedelta, by: Actor) -> NewSecret:
        """Add a secret; those before expire after the overlap. Errors: INVALID_FIELD, BRIDGE_NOT_FOUND."""
        fields = Fields()
        self._check_id(bridge_id, fields)
        if not timedelta(0) <= overlap <= MAX_OVERLAP:
            fields.add("overlap", f"0 to {MAX_OVERLAP.days} days")
        fields.refuse()
        now = self._clock.now()
        secret = new_bridge_secret(bridge_id, self._random)
        revision = await self._store.add_secret(
            bridge_id,
            BridgeSecret(digest=digest(secret), created_at=now),
            others_expire_at=now + overlap,
            event=by.event(
                Action.BRIDGE_ROTATE, now=now, subject=bridge_id, overlap_seconds=int(overlap.total_seconds())
            ),
        )
        bridge = await self._store.get(bridge_id) if revision is not None else None
        if bridge is None:
            raise TrustError(Reason.BRIDGE_NOT_FOUND, "no such live bridge")
        return NewSecret(bridge=bridge, secret=secret)

    async def revoke(self, bridge_id: str, *, by: Actor) -> int:
        """Revoke a bridge with all secrets; idempotent. Errors: INVALID_FIELD, BRIDGE_NOT_FOUND."""
        fields = Fields()
        self._check_id(bridge_id, fields)
        fields.refuse()
        now = self._clock.now()
        event = by.event(Action.BRIDGE_REVOKE, now=now, subject=bridge_id)
        revision = await self._store.revoke(bridge_id, now=now, event=event)
        if revision is None:
            raise TrustError(Reason.BRIDGE_NOT_FOUND, "no such bridge")
        self._forget(bridge_id)
        return revision

    async def authenticate(self, secret: str) -> Bridge:
        """Name the bridge that a secret belongs to. Errors: BRIDGE_CREDENTIAL_REFUSED, never saying why.

        Whether the connection may be the bridge's, see `require_certificate`.
        """
        refused = _refused()
        bridge_id = bridge_of_secret(secret)
        if bridge_id is None:
            raise refused
        bridge = await self._current(bridge_id)
        now, secret_digest = self._clock.now(), digest(secret)
        if bridge is None or not bridge.accepts(secret_digest, now):
            raise refused
        if not bridge.client_id:
            self._uses.note(bridge_id, secret_digest, now)
        return bridge

    def require_certificate(self, bridge: Bridge, secret_digest: bytes, certificate: ClientCertificate) -> None:
        """Refuse a connection that is not the client's whom the bridge is bound to.

        Errors: BRIDGE_CREDENTIAL_REFUSED, in the words of `authenticate`: who stole a secret learns nothing of it.
        """
        if not bridge.admits(certificate):
            raise _refused()
        if bridge.client_id:
            self._uses.note(bridge.id, secret_digest, self._clock.now())

    async def still_accepts(self, bridge_id: str, secret_digest: bytes, certificate: ClientCertificate) -> bool:
        """Whether a credential that was good is good still; for calls that last, which use it all the time."""
        bridge = await self._current(bridge_id)
        now = self._clock.now()
        if bridge is None or not bridge.accepts(secret_digest, now) or not bridge.admits(certificate):
            return False
        self._uses.note(bridge_id, secret_digest, now)
        return True

    async def _current(self, bridge_id: str) -> Bridge | None:
        bridge = self._cached(bridge_id)
        if bridge is not None:
            return bridge
        # A call that comes after a revocation never shares a look-up that began before it.
        key = (bridge_id, self._forgotten)
        shared = self._look_ups.get(key)
        if shared is not None:
            try:
                return await asyncio.shield(shared)
            except TrustError:
                pass  # it began before this call: storage may be back by now
        return await asyncio.shield(self._look_ups.get(key) or self._begin_look_up(key))

    def _begin_look_up(self, key: tuple[str, int]) -> asyncio.Future[Bridge | None]:
        if key[0] not in self._cache and len(self._look_ups) >= _MAX_LOOK_UPS:
            raise _too_many_strangers()
        look_up = self._look_ups[key] = asyncio.ensure_future(self._look_up(*key))
        look_up.add_done_callback(lambda done: self._looked_up(key, done))
        return look_up

    async def _look_up(self, bridge_id: str, forgotten: int) -> Bridge | None:
        if bridge_id in self._cache:
            bridge = await self._store.get(bridge_id)
        else:
            # Ids are public in form, so anyone can make up new ones; bridges seen before do not wait behind them.
            try:
                async with asyncio.timeout(_STRANGER_WAIT_SECONDS):
                    await self._stranger_slots.acquire()
            except TimeoutError:
                raise _too_many_strangers() from None
            try:
                bridge = await self._store.get(bridge_id)
            finally:
                self._stranger_slots.release()
        if bridge is not None and forgotten == self._forgotten:
            self._remember(bridge)
        return bridge

    def _looked_up(self, key: tuple[str, int], look_up: asyncio.Future[Bridge | None]) -> None:
        del self._look_ups[key]
        if not look_up.cancelled():
            look_up.exception()  # seen: callers that went away must not leave a warning behind

    def on_revocation(self, revocation: Revocation) -> None:
        """Forget a bridge that the log says has changed. A read in flight is not remembered either."""
        if revocation.subject == "bridge":
            self._forget(revocation.key)

    def _forget(self, bridge_id: str) -> None:
        self._forgotten += 1
        found = self._cache.get(bridge_id)
        if found is not None:
            self._cache[bridge_id] = (_STALE, found[1])

    def _cached(self, bridge_id: str) -> Bridge | None:
        found = self._cache.get(bridge_id)
        if found is None or self._clock.elapsed_ns() - found[0] > _CACHE_SECONDS * NS_PER_SECOND:
            return None
        return found[1]

    def _remember(self, bridge: Bridge) -> None:
        if len(self._cache) >= _CACHE_ENTRIES and bridge.id not in self._cache:
            del self._cache[next(iter(self._cache))]
        self._cache[bridge.id] = (self._clock.elapsed_ns(), bridge)

    @staticmethod
    def _check_id(bridge_id: str, fields: Fields) -> None:
        if not is_bridge_id(bridge_id):
            fields.add("bridge_id", "16 letters and digits")
