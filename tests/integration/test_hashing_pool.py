"""Hashing workers are real processes: bounded, replaced when they die, and gone with their parent."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import argon2
import pytest

from flowless.adapters.passwords import jobs, pool, room
from flowless.adapters.passwords.pool import HashingPool, hashing_workers
from flowless.adapters.passwords.profiles import PROFILES, TESTING_PROFILE
from tests.support.clock import FakeClock
from trust_core.errors import Reason, TrustError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ENOUGH = 20.0
JOB = jobs.to_hash(b"secret")


class Pool(HashingPool):
    """The pool with a clock of the test's, and the processes behind it."""

    def __init__(self, *, profile: str = TESTING_PROFILE, workers: int = 1, max_waiting: int = 1) -> None:
        self.clock = FakeClock()
        super().__init__(profile=profile, workers=workers, max_waiting=max_waiting, clock=self.clock)

    def signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, number)

    async def hash(self) -> str:
        return jobs.hashed(await asyncio.wait_for(self.run(JOB), ENOUGH))


@pytest.fixture
async def one() -> AsyncIterator[Pool]:
    """A pool of one worker, which has started, and of one place to wait."""
    made = Pool()
    assert await made.hash()
    yield made
    await made.close()


async def _until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(ENOUGH):
        while not what():
            await asyncio.sleep(0.005)


async def _is_refused(pool: Pool) -> bool:
    try:
        await pool.hash()
    except TrustError as error:
        assert error.reason is Reason.HASHING_OVERLOADED
        assert error.retry_after is not None
        return True
    return False


async def test_no_worker_runs_before_it_is_needed_and_none_after_the_end() -> None:
    pool = Pool(workers=2)
    assert pool.pids == frozenset()
    for _ in range(3):
        await pool.hash()
    (first,) = pool.pids  # one job at a time needs no second
    await asyncio.gather(pool.hash(), pool.hash())
    assert first in pool.pids
    pids = pool.pids
    assert len(pids) == 2
    await pool.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)  # nor a zombie
    assert pool.pids == frozenset()
    assert await _is_refused(pool)


async def test_a_worker_knows_no_secret_of_the_environment_and_comes_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWLESS_DATABASE_URL", "postgresql://user:hunter2@host/db")
    pool = Pool(profile="owasp")
    await pool.hash()
    (pid,) = pool.pids
    told = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"secret" not in told
    assert b"FLOWLESS" not in told
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) < 19
    # In a session of its own it would have as much of the processor as all of us, whatever its priority.
    assert os.getsid(pid) == os.getsid(0)
    modules = Path(f"/proc/{pid}/maps").read_text()
    assert "argon2" in modules or "_cffi_backend" in modules
    assert "grpc" not in modules
    await pool.close()


async def test_what_is_over_the_queue_is_refused_at_once_and_the_queue_is_served(one: Pool) -> None:
    one.signal(signal.SIGSTOP)
    running, waiting = (asyncio.ensure_future(one.hash()) for _ in range(2))
    await _until(lambda: one.jobs == 2)
    for _ in range(3):
        assert await _is_refused(one)
    with pytest.raises(TrustError) as caught:
        one.require_room()
    assert caught.value.reason is Reason.HASHING_OVERLOADED
    assert one.refused == 4
    one.signal(signal.SIGCONT)
    assert await running != await waiting
    one.require_room()
    assert one.jobs == 0


async def test_a_job_that_runs_keeps_its_place_when_its_caller_gave_up(one: Pool) -> None:
    one.signal(signal.SIGSTOP)
    gone = asyncio.ensure_future(one.run(JOB))
    await _until(lambda: len(one._running) == 1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    waiting = asyncio.ensure_future(one.hash())
    await asyncio.sleep(0)
    assert await _is_refused(one)
    one.signal(signal.SIGCONT)
    assert await waiting
    assert one.jobs == 0


async def test_a_job_that_waits_goes_with_its_caller_and_is_never_hashed(
    one: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    ask = pool._Worker.ask

    async def noting(worker: pool._Worker, job: bytes) -> bytes:
        asked.append(job)
        return await ask(worker, job)

    monkeypatch.setattr(pool._Worker, "ask", noting)
    one.signal(signal.SIGSTOP)
    running = asyncio.ensure_future(one.hash())
    await _until(lambda: len(asked) == 1)
    for _ in range(50):
        gone = asyncio.ensure_future(one.run(JOB))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await asyncio.sleep(0)
    waiting = asyncio.ensure_future(one.hash())
    await asyncio.sleep(0)
    one.signal(signal.SIGCONT)
    assert all(await asyncio.gather(running, waiting))
    assert len(asked) == 2
    assert one.jobs == 0


async def test_a_job_whose_worker_is_killed_is_done_by_the_next(one: Pool) -> None:
    before = one.pids
    one.signal(signal.SIGSTOP)
    running = asyncio.ensure_future(one.hash())
    await _until(lambda: len(one._running) == 1)
    one.signal(signal.SIGKILL)
    stored = await running
    assert argon2.PasswordHasher().verify(stored, "secret")
    assert len(one.pids) == 1
    assert one.pids != before


async def test_a_worker_that_dies_idle_is_no_zombie_and_is_replaced(one: Pool) -> None:
    (dead,) = one.pids
    one.signal(signal.SIGKILL)
    await _until(lambda: not one.pids)
    assert not Path(f"/proc/{dead}").exists()
    assert await one.hash()


async def test_a_worker_that_hangs_is_replaced_and_its_job_may_be_retried(
    one: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = one.pids
    one.signal(signal.SIGSTOP)
    monkeypatch.setattr(pool, "_JOB_SECONDS", 0.01)  # too short for a worker that has to start, too
    assert await _is_refused(one)
    monkeypatch.undo()
    one.clock.advance(60)
    assert await one.hash()
    assert not hung & one.pids


async def test_workers_that_keep_dying_are_started_ever_less_often_and_jobs_are_refused_at_once(
    one: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = 0
    spawn = pool._spawn

    def broken(*arguments: object) -> object:
        nonlocal starts
        starts += 1
        return spawn([sys.executable, "-S", "-c", ""], arguments[1])  # type: ignore[arg-type]

    monkeypatch.setattr(pool, "_spawn", broken)
    one.signal(signal.SIGKILL)
    await _until(lambda: not one.pids)
    counts = []
    for pause in (0.0, 0.05, 0.06, 0.1, 0.11):
        one.clock.advance(pause)
        assert await _is_refused(one)
        counts.append(starts)
    assert counts == [2, 2, 3, 3, 4]
    assert one.jobs == 0
    monkeypatch.undo()
    assert await _is_refused(one)
    one.clock.advance(5)
    assert await one.hash()


async def test_a_worker_that_cannot_be_started_leaves_jobs_that_may_be_retried(
    one: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.signal(signal.SIGKILL)
    await _until(lambda: not one.pids)
    with monkeypatch.context() as without:
        without.setattr(one, "_command", ["/nonexistent/python"])
        assert await _is_refused(one)
    one.clock.advance(5)
    assert await one.hash()


async def test_a_worker_does_not_end_by_the_signals_that_tell_a_service_to_stop(one: Pool) -> None:
    before = one.pids
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        one.signal(number)
    assert await one.hash()
    assert one.pids == before


async def test_a_worker_that_is_told_to_stop_while_it_starts_does_its_job() -> None:
    pool = Pool()
    first = asyncio.ensure_future(pool.hash())
    await _until(lambda: bool(pool.pids))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        pool.signal(number)
    (pid,) = pool.pids
    assert await first
    assert pool.pids == {pid}
    await pool.close()


async def test_the_end_does_not_wait_for_a_worker_that_hangs(one: Pool) -> None:
    one.signal(signal.SIGSTOP)
    calls = [asyncio.ensure_future(one.run(JOB)) for _ in range(2)]
    await _until(lambda: one.jobs == 2)
    await asyncio.wait_for(one.close(), ENOUGH)
    running, waiting = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(running, asyncio.CancelledError)
    assert isinstance(waiting, TrustError)
    assert one.jobs == 0


def test_all_workers_together_have_no_more_lanes_than_cores_and_each_server_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cores, profile, servers, expected in (
        (8, "owasp", 1, 8), (8, "owasp", 2, 4), (8, "rfc9106-second", 1, 2), (8, "rfc9106-second", 2, 1),
        (2, "rfc9106-second", 1, 1), (1, "owasp", 64, 1),
    ):  # fmt: skip
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        monkeypatch.setattr(room, "memory_bytes", lambda: None)
        assert hashing_workers(profile=profile, servers=servers) == expected
    assert PROFILES["rfc9106-second"].parallelism == 4


def test_a_container_with_little_memory_on_a_large_machine_has_few_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores would be 16 workers of 64 MiB, and a storm of logins the end of the server."""
    mib = 1024 * 1024
    monkeypatch.setattr(room, "cores", lambda: 64)
    for limit, servers, expected in (
        (None, 1, 16), (64 * 1024 * mib, 1, 16), (1024 * mib, 1, 5), (1024 * mib, 2, 2), (256 * mib, 1, 1), (0, 1, 1),
    ):  # fmt: skip
        monkeypatch.setattr(room, "memory_bytes", lambda limit=limit: limit)
        assert hashing_workers(profile="rfc9106-second", servers=servers) == expected


def test_a_containers_limits_are_read_where_the_kernel_tells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert (room.cores(tmp_path), room.memory_bytes(tmp_path)) == (8, None)
    for quota, limit, expected in (
        ("max 100000", "max", (8, None)),
        ("150000 100000", "1073741824", (2, 1 << 30)),
        ("5000 100000", "0", (1, 0)),
        ("9900000 100000", "x", (8, None)),
        ("garbage", "", (8, None)),
        ("1 0", "1 2", (8, None)),
    ):
        (tmp_path / "cpu.max").write_text(quota + "\n")
        (tmp_path / "memory.max").write_text(limit + "\n")
        assert (room.cores(tmp_path), room.memory_bytes(tmp_path)) == expected
