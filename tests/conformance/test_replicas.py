"""The table of replicas, over every engine and over the one that unit tests use."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from flowless.domain.replicas import MAX_COUNT, Acknowledgement, ReplicaReport, SidecarFigures, WatcherReport
from flowless.ports.replicas import ReplicaRegistry
from tests.support.scripted_replicas import ScriptedReplicas
from tests.support.stores import ENGINES, Stores
from trust_core.errors import Reason, TrustError

WATCHER = WatcherReport(
    bridge_id="bridge",
    instance="pod-1 \u2713",
    applied_revision=4,
    silent_for=timedelta(milliseconds=1_500),
    max_staleness=timedelta(seconds=2),
    connected=True,
)
FIGURES = SidecarFigures(
    uptime=timedelta(hours=3, microseconds=7),
    lease_held=True,
    lease_age=timedelta(milliseconds=480),
    cached_sessions=12,
    hits=MAX_COUNT,
    misses=3,
    unavailable=1,
    answers_beyond_lease=0,
    denials={5: 2, 99: 1},
)
REPORT = ReplicaReport(
    id="replica-1",
    name="host-1",
    beat=1,
    revision=7,
    longest_staleness=timedelta(seconds=3),
    watching=3,
    watchers=(WATCHER, replace(WATCHER, silent_for=None, connected=False), replace(WATCHER, figures=FIGURES)),
)


@pytest.fixture(params=[*sorted(ENGINES), "scripted"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReplicaRegistry]:
    if request.param == "scripted":
        yield ScriptedReplicas()
        return
    async with ENGINES[request.param](tmp_path) as stores:
        yield stores.replicas


async def test_a_report_is_read_back_as_it_was_written(registry: ReplicaRegistry) -> None:
    assert await registry.report(REPORT), "it was not there"
    (record,) = await registry.list()
    assert replace(record.report, watchers=tuple(record.report.watchers)) == REPORT
    assert not record.doubted
    assert record.acknowledged == Acknowledgement(revision=0, applied=0, expired=0)


async def test_figures_without_a_lease_are_read_back_as_well(registry: ReplicaRegistry) -> None:
    nothing = replace(FIGURES, lease_held=False, lease_age=None, denials={})
    await registry.report(replace(REPORT, watchers=(replace(WATCHER, figures=nothing),)))
    assert [w.figures for record in await registry.list() for w in record.report.watchers] == [nothing]


async def test_how_long_ago_a_replica_reported_is_told_by_the_stores_own_clock(registry: ReplicaRegistry) -> None:
    before = time.monotonic()
    await registry.report(REPORT)
    for with_watchers in (True, False):
        (record,) = await registry.list(with_watchers=with_watchers)
        assert record.reported_ago is not None
        assert timedelta(0) <= record.reported_ago <= timedelta(seconds=time.monotonic() - before + 0.01)


async def test_a_later_report_replaces_it_and_one_that_was_overtaken_does_not(registry: ReplicaRegistry) -> None:
    await registry.report(replace(REPORT, beat=3, revision=9))
    with pytest.raises(TrustError) as refused:
        await registry.report(replace(REPORT, beat=2, revision=8))
    assert refused.value.reason is Reason.STORAGE_UNAVAILABLE
    assert not await registry.report(replace(REPORT, beat=4, revision=10))
    assert [record.report.revision for record in await registry.list()] == [10]


async def test_what_is_acknowledged_only_rises_and_outlasts_reports(registry: ReplicaRegistry) -> None:
    await registry.report(REPORT)
    await registry.acknowledge(REPORT.id, Acknowledgement(revision=5, applied=2, expired=1))
    await registry.acknowledge(REPORT.id, Acknowledgement(revision=4, applied=9, expired=9))
    await registry.acknowledge("unknown", Acknowledgement(revision=9, applied=9, expired=9))
    await registry.report(replace(REPORT, beat=2))
    assert [r.acknowledged for r in await registry.list()] == [Acknowledgement(revision=5, applied=2, expired=1)]


async def test_a_doubted_replica_is_forgotten_and_one_that_has_reported_since_is_not(
    registry: ReplicaRegistry,
) -> None:
    await registry.report(REPORT)
    await registry.remove(REPORT.id, beat=1)  # not doubted
    await registry.doubt(REPORT.id, beat=0)  # has reported since
    assert [record.doubted for record in await registry.list()] == [False]
    await registry.doubt(REPORT.id, beat=1)
    assert [record.doubted for record in await registry.list()] == [True]
    await registry.report(replace(REPORT, beat=2))
    await registry.remove(REPORT.id, beat=1)
    assert [record.doubted for record in await registry.list()] == [False]
    await registry.doubt(REPORT.id, beat=2)
    await registry.remove(REPORT.id, beat=2)
    assert await registry.list() == []


async def test_replicas_are_listed_by_name(registry: ReplicaRegistry) -> None:
    for name in ("b", "a"):
        await registry.report(replace(REPORT, id=name, name=f"host-{name}"))
    assert [record.report.id for record in await registry.list()] == ["a", "b"]
    assert [list(record.report.watchers) for record in await registry.list(with_watchers=False)] == [[], []]


async def test_what_is_asked_for_stands_in_the_head_only_rises_and_wakes_everybody(stores: Stores) -> None:
    woken: list[str] = []
    stores.when_log_written(lambda: woken.append("woken"))
    await stores.replicas.ask(5)
    await stores.replicas.ask(3)
    assert (await stores.log.head()).barrier_revision == 5
    assert woken == ["woken"] * 2


@pytest.mark.parametrize("engine", sorted(ENGINES))
async def test_the_head_says_whether_the_reader_is_a_member(engine: str, tmp_path: Path) -> None:
    async with ENGINES[engine](tmp_path) as stores:
        log = stores.log_of("replica-1")
        assert not (await log.head()).member
        await stores.replicas.report(REPORT)
        assert (await log.head()).member
        assert not (await stores.log_of("replica-1", 2).head()).member, "this record is of a report before the last"
        await stores.replicas.doubt(REPORT.id, beat=1)
        assert not (await log.head()).member
        assert (await stores.log.head()).member, "a reader that is no replica vouches for nobody"
