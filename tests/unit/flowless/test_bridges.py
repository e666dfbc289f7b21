"""A bridge that was authenticated is trusted for two seconds, and less when the log says that it changed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flowless.domain.audit import AuditEvent
from flowless.domain.bridges import Bridge, BridgeSecret, BridgeUse, Scope
from flowless.domain.revocations import Revocation
from flowless.ports.stores import BridgeStore
from flowless.services.bridge_uses import NoUseRecorder
from flowless.services.bridges import Bridges, NewSecret
from tests.support.clock import FakeClock
from tests.support.stores import BY, counting_random, sqlite
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import new_bridge_id, new_bridge_secret

VALIDATE = frozenset({Scope.VALIDATE})


class CountingStore:
    """A real store whose reads are counted, and held back after they were made."""

    def __init__(self, store: BridgeStore) -> None:
        self._store = store
        self.reads = 0
        self.error: TrustError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, bridge_id: str) -> Bridge | None:
        self.reads += 1
        error = self.error
        found = await self._store.get(bridge_id)
        await self.gate.wait()
        if error is not None:
            raise error
        return found

    async def add(self, bridge: Bridge, *, event: AuditEvent | None = None) -> None:
        await self._store.add(bridge, event=event)

    async def bind(
        self, bridge_id: str, client_id: str, *, now: datetime, event: AuditEvent | None = None
    ) -> int | None:
        return await self._store.bind(bridge_id, client_id, now=now, event=event)

    async def record_uses(self, uses: Sequence[BridgeUse]) -> None:
        await self._store.record_uses(uses)

    async def find(self, name: str) -> Bridge | None:
        return await self._store.find(name)

    async def list(self) -> Sequence[Bridge]:
        return await self._store.list()

    async def add_secret(
        self,
        bridge_id: str,
        secret: BridgeSecret,
        *,
        others_expire_at: datetime,
        event: AuditEvent | None = None,
    ) -> int | None:
        return await self._store.add_secret(bridge_id, secret, others_expire_at=others_expire_at, event=event)

    async def revoke(self, bridge_id: str, *, now: datetime, event: AuditEvent | None = None) -> int | None:
        return await self._store.revoke(bridge_id, now=now, event=event)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CountingStore]:
    async with sqlite(tmp_path) as stores:
        yield CountingStore(stores.bridges)


@pytest.fixture
def bridges(store: CountingStore, clock: FakeClock) -> Bridges:
    return _bridges(store, clock)


def _bridges(store: CountingStore, clock: FakeClock) -> Bridges:
    return Bridges(store=store, uses=NoUseRecorder(), clock=clock, random=counting_random)


@pytest.fixture
async def shop(bridges: Bridges) -> NewSecret:
    return await bridges.create("shop", VALIDATE, by=BY)


def _row(bridge_id: str) -> Revocation:
    return Revocation(revision=1, subject="bridge", key=bridge_id)


async def _refused(bridges: Bridges, secret: str) -> str:
    with pytest.raises(TrustError) as caught:
        await bridges.authenticate(secret)
    assert caught.value.reason is Reason.BRIDGE_CREDENTIAL_REFUSED
    return caught.value.message


async def test_a_bridge_is_read_once_in_two_seconds(
    bridges: Bridges, store: CountingStore, clock: FakeClock, shop: NewSecret
) -> None:
    for _ in range(5):
        assert (await bridges.authenticate(shop.secret)).name == "shop"
        clock.advance(0.5)
    assert store.reads == 1
    clock.jump(-3_600)  # the wall clock has no say in it
    clock.advance(0.5)
    await bridges.authenticate(shop.secret)
    assert store.reads == 2


async def test_a_replica_obeys_its_own_revocation_at_once(bridges: Bridges, shop: NewSecret) -> None:
    await bridges.authenticate(shop.secret)
    await bridges.revoke(shop.bridge.id, by=BY)
    await _refused(bridges, shop.secret)


async def test_another_replicas_revocation_is_obeyed_at_once_when_the_log_tells_of_it(
    bridges: Bridges, store: CountingStore, clock: FakeClock, shop: NewSecret
) -> None:
    await bridges.authenticate(shop.secret)
    await _bridges(store, clock).revoke(shop.bridge.id, by=BY)
    bridges.on_revocation(_row("another" + "0" * 9))
    await bridges.authenticate(shop.secret)  # nobody has told this replica yet
    assert store.reads == 1
    bridges.on_revocation(_row(shop.bridge.id))
    await _refused(bridges, shop.secret)


async def test_another_replicas_revocation_that_nobody_told_of_is_obeyed_after_two_seconds(
    bridges: Bridges, store: CountingStore, clock: FakeClock, shop: NewSecret
) -> None:
    await bridges.authenticate(shop.secret)
    await _bridges(store, clock).revoke(shop.bridge.id, by=BY)
    clock.advance(2.001)
    await _refused(bridges, shop.secret)


async def test_rows_about_others_forget_no_bridge(bridges: Bridges, store: CountingStore, shop: NewSecret) -> None:
    await bridges.authenticate(shop.secret)
    bridges.on_revocation(Revocation(revision=1, subject="user", key=shop.bridge.id))
    await bridges.authenticate(shop.secret)
    assert store.reads == 1


async def test_a_read_in_flight_during_a_revocation_is_not_remembered(
    bridges: Bridges, store: CountingStore, shop: NewSecret
) -> None:
    store.gate.clear()
    in_flight = asyncio.ensure_future(bridges.authenticate(shop.secret))
    while not store.reads:
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)  # the row is read and held back; were it not yet, it would be read as revoked
    await store.revoke(shop.bridge.id, now=FakeClock().now())
    bridges.on_revocation(_row(shop.bridge.id))
    store.gate.set()
    await asyncio.gather(in_flight, return_exceptions=True)
    await _refused(bridges, shop.secret)


async def test_a_secret_that_expires_is_refused_even_while_its_bridge_is_remembered(
    bridges: Bridges, store: CountingStore, clock: FakeClock, shop: NewSecret
) -> None:
    rotated = await bridges.rotate(shop.bridge.id, overlap=timedelta(seconds=1), by=BY)
    reads = store.reads
    await bridges.authenticate(shop.secret)
    clock.advance(1)
    await _refused(bridges, shop.secret)
    await bridges.authenticate(rotated.secret)
    assert store.reads == reads + 1


async def test_a_refusal_never_says_why(bridges: Bridges, clock: FakeClock, shop: NewSecret) -> None:
    rotated = await bridges.create("rotated", VALIDATE, by=BY)
    await bridges.rotate(rotated.bridge.id, overlap=timedelta(0), by=BY)
    revoked = await bridges.create("revoked", VALIDATE, by=BY)
    await bridges.revoke(revoked.bridge.id, by=BY)
    refused = [
        "", "x", shop.secret[:-1], shop.secret + "0", shop.secret.swapcase(), "brdg_\0",
        new_bridge_secret(new_bridge_id(counting_random), counting_random),
        new_bridge_secret(shop.bridge.id, counting_random),
        rotated.secret, revoked.secret,
    ]  # fmt: skip
    assert len({await _refused(bridges, secret) for secret in refused}) == 1


async def test_garbage_is_refused_without_asking_storage(bridges: Bridges, store: CountingStore) -> None:
    for secret in ("", "x" * 71, "brdg_" + "0" * 16 + "_" + "0" * 49, "\ud800"):
        await _refused(bridges, secret)
    assert store.reads == 0


async def test_bridges_that_do_not_exist_are_not_remembered(bridges: Bridges) -> None:
    for _ in range(3):
        await _refused(bridges, new_bridge_secret(new_bridge_id(counting_random), counting_random))
    assert not bridges._cache


async def test_memory_is_bounded(bridges: Bridges, shop: NewSecret, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowless.services.bridges._CACHE_ENTRIES", 2)
    others = [await bridges.create(f"bridge-{number}", VALIDATE, by=BY) for number in range(5)]
    for new in (shop, *others):
        await bridges.authenticate(new.secret)
        assert len(bridges._cache) <= 2


async def test_a_bridge_is_found_by_id_and_by_name(bridges: Bridges, shop: NewSecret) -> None:
    assert (await bridges.find("shop")).id == (await bridges.find(shop.bridge.id)).id == shop.bridge.id


@pytest.mark.parametrize("name", ["", "nothing", "\0", "\ud800", "ключ", "x" * 10_000])
async def test_a_bridge_that_does_not_exist_is_not_found(bridges: Bridges, name: str) -> None:
    with pytest.raises(TrustError) as caught:
        await bridges.find(name)
    assert caught.value.reason is Reason.BRIDGE_NOT_FOUND


@pytest.mark.parametrize("name", ["", "-x", ".x", "a b", "x" * 65, "ключ", "a\n", "a/b"])
async def test_a_name_that_is_none_is_refused(bridges: Bridges, name: str) -> None:
    with pytest.raises(TrustError) as caught:
        await bridges.create(name, VALIDATE, by=BY)
    assert [violation.field for violation in caught.value.violations] == ["name"]


@pytest.mark.parametrize("overlap", [timedelta(microseconds=-1), timedelta(days=30, microseconds=1), timedelta.max])
async def test_an_overlap_is_bounded(bridges: Bridges, shop: NewSecret, overlap: timedelta) -> None:
    with pytest.raises(TrustError) as caught:
        await bridges.rotate(shop.bridge.id, overlap=overlap, by=BY)
    assert [violation.field for violation in caught.value.violations] == ["overlap"]


async def test_a_bridge_that_was_revoked_is_neither_rotated_nor_revived(bridges: Bridges, shop: NewSecret) -> None:
    first = await bridges.revoke(shop.bridge.id, by=BY)
    assert await bridges.revoke(shop.bridge.id, by=BY) == first
    with pytest.raises(TrustError) as caught:
        await bridges.rotate(shop.bridge.id, overlap=timedelta(0), by=BY)
    assert caught.value.reason is Reason.BRIDGE_NOT_FOUND


async def test_first_calls_of_many_bridges_at_once_are_all_served_as_after_a_restart(
    bridges: Bridges, store: CountingStore
) -> None:
    made = [await bridges.create(f"bridge-{number}", VALIDATE, by=BY) for number in range(20)]
    calls = [bridges.authenticate(new.secret) for new in made for _ in range(10)]
    found = await asyncio.wait_for(asyncio.gather(*calls), 20)
    assert [bridge.id for bridge in found] == [new.bridge.id for new in made for _ in range(10)]
    assert store.reads == len(made), "calls of one bridge share a look-up"


async def test_a_flood_of_made_up_bridges_is_shed_while_a_known_bridge_is_served(
    bridges: Bridges, store: CountingStore, clock: FakeClock, shop: NewSecret
) -> None:
    await bridges.authenticate(shop.secret)
    clock.advance(3)  # what is remembered of the shop has to be read again
    store.gate.clear()
    made_up = [new_bridge_secret(new_bridge_id(counting_random), counting_random) for _ in range(2_000)]
    flood = [asyncio.ensure_future(bridges.authenticate(secret)) for secret in made_up]
    await asyncio.sleep(0.05)
    known = asyncio.ensure_future(bridges.authenticate(shop.secret))
    await asyncio.sleep(0.05)
    in_storage = store.reads - 1
    store.gate.set()
    assert (await asyncio.wait_for(known, 20)).id == shop.bridge.id
    outcomes = await asyncio.wait_for(asyncio.gather(*flood, return_exceptions=True), 20)
    reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, TrustError)]
    assert len(reasons) == len(made_up)
    assert set(reasons) == {Reason.BRIDGE_CREDENTIAL_REFUSED, Reason.TOO_MANY_CALLS}
    assert in_storage <= 3, "few look-ups of strangers at one time, and the known bridge's"


async def test_a_call_after_a_revocation_does_not_share_a_read_from_before_it(
    bridges: Bridges, store: CountingStore, shop: NewSecret
) -> None:
    store.gate.clear()
    before = asyncio.ensure_future(bridges.authenticate(shop.secret))
    while not store.reads:
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)  # the row is read and held back
    await store.revoke(shop.bridge.id, now=FakeClock().now())
    bridges.on_revocation(_row(shop.bridge.id))
    after = asyncio.ensure_future(bridges.authenticate(shop.secret))
    await asyncio.sleep(0.02)
    store.gate.set()
    await asyncio.gather(before, return_exceptions=True)
    with pytest.raises(TrustError) as caught:
        await asyncio.wait_for(after, 20)
    assert caught.value.reason is Reason.BRIDGE_CREDENTIAL_REFUSED


async def test_a_call_that_shared_a_look_up_from_before_storage_came_back_is_answered(
    bridges: Bridges, store: CountingStore, shop: NewSecret
) -> None:
    store.gate.clear()
    store.error = TrustError(Reason.STORAGE_UNAVAILABLE, "down")
    before = asyncio.ensure_future(bridges.authenticate(shop.secret))
    while not store.reads:
        await asyncio.sleep(0)
    store.error = None
    after = asyncio.ensure_future(bridges.authenticate(shop.secret))
    await asyncio.sleep(0.02)
    store.gate.set()
    with pytest.raises(TrustError) as caught:
        await asyncio.wait_for(before, 20)
    assert caught.value.reason is Reason.STORAGE_UNAVAILABLE
    assert (await asyncio.wait_for(after, 20)).id == shop.bridge.id
