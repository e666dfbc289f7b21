"""Use cases of signing keys: rotate, list, destroy, wrap anew; and which key signs and verifies now.

Shared state: the keys as last read, and the one read that runs, touched by the event loop only. They are believed
for `_SECONDS`; what a destroyed key signed is refused at once all the same, since spending a token looks at its key
in the database.
"""

import asyncio
from datetime import timedelta
from typing import Final

from flowless.domain.audit import Action, Actor
from flowless.domain.fields import Fields
from flowless.domain.signing_keys import MAX_OVERLAP, KeyState, SigningKey
from flowless.ports.trust_tokens import SigningKeyStore, TokenFormat
from trust_core.clock import NS_PER_SECOND, Clock
from trust_core.errors import Reason, TrustError

_SECONDS: Final = 5
_STRANGER_SECONDS: Final = 1
"""A token that names an unknown key makes the keys be read again, at most this often, whoever sends how many."""


class SigningKeys:
    """See the module."""

    def __init__(self, *, store: SigningKeyStore, tokens: TokenFormat, clock: Clock) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self._known: dict[str, SigningKey] = {}
        self._read_ns: int | None = None
        self._generation = 0
        self._reading: asyncio.Future[None] | None = None

    async def rotate(self, *, overlap: timedelta, by: Actor) -> SigningKey:
        """Let the next key sign, retire the active one for the overlap, make a next one.

        Errors: INVALID_FIELD, SIGNING_NOT_CONFIGURED.
        """
        fields = Fields()
        if not timedelta(0) <= overlap <= MAX_OVERLAP:
            fields.add("overlap", f"0 to {MAX_OVERLAP.days} days")
        fields.refuse()
        now = self._clock.now()
        active = await self._store.rotate(
            (self._tokens.new_key(now=now), self._tokens.new_key(now=now)),
            overlap_until=now + overlap,
            now=now,
            event=by.event(Action.KEY_ROTATE, now=now, overlap_seconds=int(overlap.total_seconds())),
        )
        self.forget()
        return active

    async def all(self) -> list[SigningKey]:
        """List all keys, newest first."""
        return await self._store.list()

    async def destroy(self, key_id: str, *, by: Actor) -> None:
        """Erase a retired key; idempotent. Errors: INVALID_FIELD, SIGNING_KEY_NOT_FOUND, SIGNING_KEY_IN_USE."""
        if not key_id:
            fields = Fields()
            fields.add("key_id", "required")
            fields.refuse()
        await self._store.destroy(key_id, event=by.event(Action.KEY_DESTROY, now=self._clock.now(), subject=key_id))
        self.forget()

    async def rewrap(self, *, by: Actor) -> int:
        """Wrap all private parts under the first key of the file; return how many. Errors: SIGNING_NOT_CONFIGURED."""
        keys = [key for key in await self._store.list() if key.wrapped]
        for key in keys:
            await self._store.replace_wrapped(
                key.key_id,
                expected=key.wrapped,
                wrapped=self._tokens.rewrapped(key).wrapped,
                event=by.event(Action.KEY_REWRAP, now=self._clock.now(), subject=key.key_id),
            )
        self.forget()
        return len(keys)

    def public_text(self, key: SigningKey) -> str:
        """PASERK text of a key's public part."""
        return self._tokens.public_text(key)

    async def public_texts(self) -> list[str]:
        """PASERK texts of the keys that verify now, the active one first."""
        now = self._clock.now()
        keys = [key for key in await self._store.list() if key.verifies(now)]
        order = (KeyState.ACTIVE, KeyState.NEXT, KeyState.RETIRED)
        return [self._tokens.public_text(key) for key in sorted(keys, key=lambda key: order.index(key.state))]

    async def active(self) -> SigningKey:
        """Give the key that signs. Errors: SIGNING_NOT_CONFIGURED."""
        await self._fresh(_SECONDS)
        for key in self._known.values():
            if key.state is KeyState.ACTIVE:
                return key
        await self._fresh(_STRANGER_SECONDS)
        for key in self._known.values():
            if key.state is KeyState.ACTIVE:
                return key
        raise TrustError(
            Reason.SIGNING_NOT_CONFIGURED, "there is no signing key yet; an operator makes one: flowless keys rotate"
        )

    async def key(self, key_id: str) -> SigningKey | None:
        """Give a key that verifies now, by its id."""
        await self._fresh(_SECONDS)
        if key_id not in self._known:
            await self._fresh(_STRANGER_SECONDS)
        found = self._known.get(key_id)
        return found if found is not None and found.verifies(self._clock.now()) else None

    def forget(self) -> None:
        """Read the keys again at the next question, and believe no read that began before."""
        self._generation += 1
        self._read_ns = None

    async def _fresh(self, seconds: int) -> None:
        """Read the keys unless that was done less than so long ago; all who ask meanwhile share one read."""
        for _ in range(2):
            now = self._clock.elapsed_ns()
            if self._read_ns is not None and now - self._read_ns <= seconds * NS_PER_SECOND:
                return
            if self._reading is None or self._reading.done():
                self._reading = asyncio.ensure_future(self._read())
                self._reading.add_done_callback(_seen)
            await asyncio.shield(self._reading)

    async def _read(self) -> None:
        generation, began = self._generation, self._clock.elapsed_ns()
        known = {key.key_id: key for key in await self._store.list()}
        if generation == self._generation:
            self._known, self._read_ns = known, began


def _seen(reading: asyncio.Future[None]) -> None:
    if not reading.cancelled():
        reading.exception()  # whoever waits has it; a caller that went away must not leave a warning behind
