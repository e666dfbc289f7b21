"""What every store of bridges does."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from flowless.domain.bridges import Bridge, BridgeSecret, BridgeUse, Scope
from tests.support.stores import HOUR, NOW, SECOND, Stores, fresh_digest, new_bridge
from trust_core.errors import Reason, TrustError


async def _added(stores: Stores, name: str = "shop", *, secrets: int = 1) -> Bridge:
    bridge = new_bridge(name, secrets=secrets)
    await stores.bridges.add(bridge)
    return bridge


async def _read(stores: Stores, bridge: Bridge) -> Bridge:
    found = await stores.bridges.get(bridge.id)
    assert found is not None
    assert await stores.bridges.find(bridge.name) == found
    return found


@pytest.mark.parametrize("secrets", [0, 1, 3])
async def test_a_bridge_is_read_as_it_was_added_with_all_of_its_secrets(stores: Stores, secrets: int) -> None:
    bridge = await _added(stores, secrets=secrets)
    await _added(stores, "other", secrets=2)
    assert await _read(stores, bridge) == bridge


@pytest.mark.parametrize("scopes", [frozenset(Scope), *(frozenset({scope}) for scope in Scope)])
async def test_a_bridge_keeps_exactly_its_scopes(stores: Stores, scopes: frozenset[Scope]) -> None:
    bridge = replace(new_bridge("shop"), scopes=scopes)
    await stores.bridges.add(bridge)
    assert (await _read(stores, bridge)).scopes == scopes


async def test_a_name_belongs_to_one_bridge_even_when_that_is_revoked(stores: Stores) -> None:
    first = await _added(stores)
    for _ in range(2):
        refused = new_bridge("shop")
        with pytest.raises(TrustError) as caught:
            await stores.bridges.add(refused)
        assert caught.value.reason is Reason.BRIDGE_NAME_TAKEN
        assert await stores.bridges.get(refused.id) is None
        await stores.bridges.revoke(first.id, now=NOW)


async def test_names_of_bridges_differ_by_case(stores: Stores) -> None:
    lower, upper = await _added(stores, "shop"), await _added(stores, "SHOP")
    assert await _read(stores, lower) == lower
    assert await _read(stores, upper) == upper


@pytest.mark.parametrize("text", ["", "%", "shop\0", "' OR 1=1 --", "x" * 10_000])
async def test_a_bridge_that_does_not_exist_is_none(stores: Stores, text: str) -> None:
    await _added(stores)
    secret = BridgeSecret(digest=fresh_digest(), created_at=NOW)
    assert await stores.bridges.get(text) is None
    assert await stores.bridges.find(text) is None
    assert await stores.bridges.revoke(text, now=NOW) is None
    assert await stores.bridges.add_secret(text, secret, others_expire_at=NOW) is None
    assert await stores.end() == 0


async def test_bridges_are_listed_by_name_revoked_or_not(stores: Stores) -> None:
    assert await stores.bridges.list() == []
    bridges = [await _added(stores, name, secrets=count) for count, name in enumerate(("c", "a", "b"))]
    await stores.bridges.revoke(bridges[0].id, now=NOW)
    listed = await stores.bridges.list()
    assert [bridge.name for bridge in listed] == ["a", "b", "c"]
    assert list(listed)[:2] == [bridges[1], bridges[2]]
    assert listed[2].revoked_at == NOW


async def test_a_new_bridge_concerns_nobody_and_writes_no_row(stores: Stores) -> None:
    await _added(stores)
    assert await stores.rows() == []


async def test_rotating_adds_a_secret_lets_the_others_expire_and_writes_one_row(stores: Stores) -> None:
    bridge = await _added(stores, secrets=2)
    other = await _added(stores, "other")
    fresh = BridgeSecret(digest=fresh_digest(), created_at=NOW + HOUR)
    revision, rows = await stores.written_by(
        stores.bridges.add_secret(bridge.id, fresh, others_expire_at=NOW + 2 * HOUR)
    )
    assert rows == [("bridge", bridge.id)]
    assert revision == await stores.end()
    before = tuple(replace(secret, expires_at=NOW + 2 * HOUR) for secret in bridge.secrets)
    rotated = await _read(stores, bridge)
    assert rotated.secrets == (*before, fresh)
    assert await _read(stores, other) == other
    for secret in rotated.secrets:
        assert rotated.accepts(secret.digest, NOW + HOUR)
    assert [rotated.accepts(s.digest, NOW + 2 * HOUR) for s in rotated.secrets] == [False, False, True]


async def test_rotating_never_lengthens_the_life_of_a_secret(stores: Stores) -> None:
    bridge = await _added(stores)
    ends = (NOW + SECOND, NOW + HOUR)
    for number, end in enumerate(ends):
        fresh = BridgeSecret(digest=fresh_digest(), created_at=NOW + (number + 1) * SECOND)
        await stores.bridges.add_secret(bridge.id, fresh, others_expire_at=end)
    assert [secret.expires_at for secret in (await _read(stores, bridge)).secrets] == [*ends, None]


async def test_rotations_at_once_leave_one_secret_that_does_not_expire(stores: Stores) -> None:
    bridge = await _added(stores)
    fresh = [BridgeSecret(digest=fresh_digest(), created_at=NOW + n * SECOND) for n in range(1, 6)]
    revisions = await asyncio.gather(
        *(stores.bridges.add_secret(bridge.id, secret, others_expire_at=NOW + HOUR) for secret in fresh)
    )
    assert sorted(r for r in revisions if r is not None) == [1, 2, 3, 4, 5]
    found = await _read(stores, bridge)
    assert len(found.secrets) == 6
    assert sum(secret.expires_at is None for secret in found.secrets) == 1


async def test_a_revoked_bridge_accepts_no_secret_and_gets_no_new_one(stores: Stores) -> None:
    bridge = await _added(stores, secrets=2)
    revision, rows = await stores.written_by(stores.bridges.revoke(bridge.id, now=NOW + SECOND))
    assert rows == [("bridge", bridge.id)]
    assert revision == await stores.end()
    found = await _read(stores, bridge)
    assert found.revoked_at == NOW + SECOND
    assert not any(found.accepts(secret.digest, NOW) for secret in found.secrets)
    fresh = BridgeSecret(digest=fresh_digest(), created_at=NOW)
    assert await stores.bridges.add_secret(bridge.id, fresh, others_expire_at=NOW) is None
    assert await _read(stores, bridge) == found
    assert await stores.end() == revision


async def test_revoking_a_bridge_again_keeps_the_moment_and_writes_no_row(stores: Stores) -> None:
    bridge = await _added(stores)
    first = await stores.bridges.revoke(bridge.id, now=NOW)
    again = stores.bridges.revoke(bridge.id, now=NOW + timedelta(days=1))
    assert await stores.written_by(again) == (first, [])
    assert (await _read(stores, bridge)).revoked_at == NOW


def _used(bridge: Bridge, number: int, at: datetime) -> BridgeUse:
    return BridgeUse(bridge_id=bridge.id, digest=bridge.secrets[number].digest, at=at)


async def test_uses_are_noted_with_each_secret_and_its_bridge_and_write_no_row(stores: Stores) -> None:
    bridge, other = await _added(stores, secrets=3), await _added(stores, "other")
    uses = [_used(bridge, 1, NOW + HOUR), _used(bridge, 0, NOW + SECOND), _used(other, 0, NOW)]
    await stores.bridges.record_uses(uses)
    found = await _read(stores, bridge)
    assert [secret.last_used_at for secret in found.secrets] == [NOW + SECOND, NOW + HOUR, None]
    assert found.last_used_at == NOW + HOUR
    assert (await _read(stores, other)).last_used_at == NOW
    assert await stores.rows() == []


async def test_a_use_that_is_written_late_moves_nothing_back(stores: Stores) -> None:
    bridge = await _added(stores)
    for at in (NOW + HOUR, NOW + SECOND):
        await stores.bridges.record_uses([_used(bridge, 0, at)])
    found = await _read(stores, bridge)
    assert (found.last_used_at, found.secrets[0].last_used_at) == (NOW + HOUR, NOW + HOUR)


async def test_uses_of_what_is_gone_and_no_uses_at_all_change_nothing(stores: Stores) -> None:
    bridge = await _added(stores)
    await stores.bridges.record_uses([])
    await stores.bridges.record_uses([BridgeUse(bridge_id="gone", digest=fresh_digest(), at=NOW)])
    assert await _read(stores, bridge) == bridge


async def test_replicas_that_write_uses_at_once_do_not_stand_in_each_others_way(stores: Stores) -> None:
    bridges = [await _added(stores, f"bridge{number}", secrets=2) for number in range(5)]
    uses = [_used(bridge, number, NOW + SECOND) for bridge in bridges for number in (0, 1)]
    await asyncio.gather(*(stores.bridges.record_uses(some) for some in (uses, uses[::-1], uses[3:] + uses[:3])))
    for bridge in bridges:
        assert {secret.last_used_at for secret in (await _read(stores, bridge)).secrets} == {NOW + SECOND}


async def test_a_bridge_is_bound_and_freed_and_each_writes_one_row(stores: Stores) -> None:
    bridge, other = await _added(stores), await _added(stores, "other")
    for client_id in ("spiffe://example.org/shop", "shop.internal", ""):
        revision, rows = await stores.written_by(stores.bridges.bind(bridge.id, client_id, now=NOW))
        assert (rows, revision) == ([("bridge", bridge.id)], await stores.end())
        assert await _read(stores, bridge) == replace(bridge, client_id=client_id)
    assert await _read(stores, other) == other


async def test_a_bridge_that_is_revoked_or_unknown_is_not_bound(stores: Stores) -> None:
    bridge = await _added(stores)
    revision = await stores.bridges.revoke(bridge.id, now=NOW)
    for bridge_id in (bridge.id, "unknown"):
        assert await stores.bridges.bind(bridge_id, "shop.internal", now=NOW) is None
    assert (await _read(stores, bridge)).client_id == ""
    assert await stores.end() == revision


async def test_a_bridge_is_added_with_the_client_that_it_is_bound_to(stores: Stores) -> None:
    bridge = replace(new_bridge("shop"), client_id="spiffe://example.org/shop")
    await stores.bridges.add(bridge)
    assert await _read(stores, bridge) == bridge
