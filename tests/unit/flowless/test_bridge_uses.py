"""Uses of secrets are noted in memory and written in batches."""

import asyncio
from collections.abc import Sequence

import pytest

from flowless.domain.bridges import BridgeUse
from flowless.services import bridge_uses
from flowless.services.bridge_uses import BridgeUses
from tests.support.stores import HOUR, NOW, SECOND
from trust_core.errors import Reason, TrustError

OLD, NEW = b"o" * 32, b"n" * 32


class Batches:
    """What was written."""

    def __init__(self) -> None:
        self.written: list[list[BridgeUse]] = []
        self.error: TrustError | None = None

    async def record_uses(self, uses: Sequence[BridgeUse]) -> None:
        if self.error is not None:
            raise self.error
        self.written.append(list(uses))


@pytest.fixture
def batches() -> Batches:
    return Batches()


@pytest.fixture
def uses(batches: Batches) -> BridgeUses:
    return BridgeUses(store=batches)


def _use(digest: bytes, seconds: int) -> BridgeUse:
    return BridgeUse(bridge_id="shop", digest=digest, at=NOW + seconds * SECOND)


async def test_of_many_uses_the_last_of_each_secret_is_written_once(uses: BridgeUses, batches: Batches) -> None:
    for second in range(1_000):
        uses.note("shop", OLD, NOW + second * SECOND)
    uses.note("shop", NEW, NOW + HOUR)
    assert batches.written == []
    await uses.flush()
    await uses.flush()
    assert batches.written == [[_use(OLD, 999), _use(NEW, 3_600)], []]


async def test_what_storage_did_not_take_goes_with_the_next_batch_unless_it_is_old_by_then(
    uses: BridgeUses, batches: Batches
) -> None:
    uses.note("shop", OLD, NOW)
    uses.note("shop", NEW, NOW)
    batches.error = TrustError(Reason.STORAGE_UNAVAILABLE, "away")
    writing = asyncio.create_task(uses.flush())
    await writing
    uses.note("shop", NEW, NOW + SECOND)
    batches.error = None
    await uses.flush()
    assert sorted(batches.written[0], key=lambda use: use.digest) == [_use(NEW, 1), _use(OLD, 0)]


async def test_a_flood_of_secrets_is_noted_up_to_a_bound(
    uses: BridgeUses, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_uses, "_MAX_SECRETS", 2)
    for number in range(5):
        uses.note("shop", bytes([number]) * 32, NOW)
    uses.note("shop", bytes(32), NOW + SECOND)
    await uses.flush()
    assert batches.written == [[_use(bytes(32), 1), _use(bytes([1]) * 32, 0)]]


async def test_batches_are_written_while_it_runs(
    uses: BridgeUses, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_uses, "BATCH_SECONDS", 0.0)
    uses.note("shop", OLD, NOW)
    running = asyncio.create_task(uses.run())
    while not batches.written:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert batches.written[0] == [_use(OLD, 0)]
