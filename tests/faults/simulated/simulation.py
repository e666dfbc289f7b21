"""Both programs' own code in virtual time over a virtual network, under random faults from a seed.

What is real: the sidecar's cache, lease, validator, watch and watch protocol; Flowless' tail, watch stream, watchers,
barriers, recent revocations, session tiers and judgement. What is made up: gRPC, SQL, Redis and the clocks. A seed
decides everything: the same seed gives the same history, event for event.
"""

import asyncio
import functools
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, TypeVar, cast

import grpc

from bridge_sidecar.lease import Lease
from bridge_sidecar.mismatches import MismatchReporter
from bridge_sidecar.revocation_watch import Backoff, RevocationWatch, WatchSettings
from bridge_sidecar.routes import Rule
from bridge_sidecar.sent_figures import SentFigures
from bridge_sidecar.session_cache import CacheLimits, SessionCache
from bridge_sidecar.upstream import WatchCall
from bridge_sidecar.validator import MissLimits, Question, UpstreamAnswer, Validator
from flowless.domain.replicas import LONGEST_STALENESS, Acknowledgement, ReplicaRecord, ReplicaReport
from flowless.domain.revocations import LogHead, Revocation
from flowless.domain.sessions import SessionRead
from flowless.domain.users import User
from flowless.grpc.authorization import Caller
from flowless.grpc.watch import WatchStream
from flowless.services.barriers import Barriers
from flowless.services.recent_revocations import RecentRevocations
from flowless.services.revocation_tail import RevocationTail
from flowless.services.session_tiers import SessionTiers
from flowless.services.sessions import Sessions
from flowless.services.watchers import Watchers
from tests.faults.history import Event, Login, Outcome, Revoke, Validation
from tests.faults.simulated.model import ModelReplica
from tests.faults.simulated.network import Gate, Link, UnreachableError
from tests.faults.simulated.storage import LIMITS, Redis, Storage, answer_of
from tests.faults.simulated.virtual_time import VirtualClock, VirtualLoop, run
from tests.support.stores import new_bridge, new_session, new_user
from trust_core.clock import NS_PER_SECOND
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import digest, new_session_id
from trust_core.modes import RequestContext, ValidationMode
from trustlayer.v1 import bridge_pb2

T = TypeVar("T")

STALENESS_SECONDS: Final = 0.3
UPSTREAM_TIMEOUT_SECONDS: Final = 0.12
_POLL_SECONDS: Final = 0.15
BROWSER: Final = RequestContext(client_ip="203.0.113.7", device_fingerprint="device", user_agent="agent")
_RULE: Final = Rule(name="")
SECONDS: Final = 1.1
CORE_SECONDS: Final = 0.8
_QUIET_SECONDS: Final = 0.45
"""At the end nothing new is broken, so that what is wrong by then has time to show."""


def ns(seconds: float) -> int:
    return round(seconds * NS_PER_SECOND)


# ---- Flowless --------------------------------------------------------------------------------------------------


class ReplicaStorage:
    """Storage as one replica reaches it: log, sessions and the table of replicas, none of it while it is paused."""

    def __init__(self, storage: Storage, replica: "Replica") -> None:
        self._storage = storage
        self._replica = replica

    async def _reach(self, work: Callable[[], T]) -> T:
        await self._replica.awake.passed()
        await self._storage.take_time()
        if self._replica.storage_cut:
            raise TrustError(Reason.STORAGE_UNAVAILABLE, "cut off")
        result = work()
        await self._storage.answer()
        await self._replica.awake.passed()
        return result

    async def head(self) -> LogHead:
        storage, mine = self._storage, self._replica.id
        return await self._reach(
            lambda: LogHead(
                log_id="log",
                revision=storage.end,
                compacted_through=0,
                barrier_revision=storage.barrier_revision,
                member=storage.registry.is_member(mine),
            )
        )

    async def after(self, revision: int, *, until: int, limit: int) -> Sequence[Revocation]:
        rows = self._storage.rows
        return await self._reach(lambda: [row for row in rows if revision < row.revision <= until][:limit])

    async def read(self, key: bytes) -> SessionRead:
        return await self._reach(lambda: self._storage.snapshot(key))

    async def report(self, report: ReplicaReport) -> bool:
        await self._reach(lambda: None)
        return await self._storage.registry.report(report)

    async def acknowledge(self, replica_id: str, acknowledgement: Acknowledgement) -> None:
        await self._reach(lambda: None)
        await self._storage.registry.acknowledge(replica_id, acknowledgement)

    async def ask(self, revision: int) -> None:
        await self._reach(lambda: None)
        await self._storage.registry.ask(revision)
        self._storage.wake()

    async def list(self, *, with_watchers: bool = True) -> Sequence[ReplicaRecord]:
        await self._reach(lambda: None)
        return await self._storage.registry.list(with_watchers=with_watchers)

    async def doubt(self, replica_id: str, *, beat: int) -> None:
        await self._reach(lambda: None)
        await self._storage.registry.doubt(replica_id, beat=beat)

    async def remove(self, replica_id: str, *, beat: int) -> None:
        await self._reach(lambda: None)
        await self._storage.registry.remove(replica_id, beat=beat)


class _AcceptAll:
    async def still_accepts(self, bridge_id: str, secret_digest: bytes, certificate: object) -> bool:
        return True


_SESSION: Final = new_session("nobody")
_SESSION_IDS: Final = [new_session_id(random.Random(number).randbytes) for number in range(64)]
_CALLER: Final = Caller(new_bridge("sidecar"), b"")


class Replica:
    """One Flowless: its real services over the made-up storage. May be killed and started again, and paused."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self.number = number
        self.id = ""
        self.awake = Gate()
        self.clock = VirtualClock(world.loop, offset_seconds=world.rng.uniform(0, 1e6))
        self.alive = False
        self.storage_cut = False
        self._tasks: list[asyncio.Task[Any]] = []
        self.start()

    def start(self) -> None:
        world = self._world
        self.id = f"replica-{self.number}-{world.next_id()}"
        store = ReplicaStorage(world.storage, self)
        self.log = store
        self.watchers = Watchers()
        self.barriers = Barriers(
            registry=store, watchers=self.watchers, clock=self.clock, replica_id=self.id, name=self.id
        )
        self.tail = RevocationTail(
            log=store,
            membership=self.barriers,
            clock=self.clock,
            poll_interval=_POLL_SECONDS,
            min_spacing=0.002,
            max_subscriptions=100,
            max_subscriptions_per_bridge=100,
        )
        self.recent = RecentRevocations()
        tiers = SessionTiers(
            store=cast("Any", store),
            tier=world.redis,
            recent=self.recent,
            tail=self.tail,
            limits=LIMITS,
            max_ttl_seconds=3_600,
            longest_staleness_ns=lambda: self.barriers.longest_staleness_ns,
            clock=self.clock,
        )
        unused: Any = None
        self.sessions = Sessions(
            store=cast("Any", store),
            reads=tiers,
            limits=LIMITS,
            activity_interval=timedelta(seconds=60),
            clock=self.clock,
            random=unused,
        )
        self.tail.listen(self.recent.on_revocation)
        self.tail.listen(tiers.on_revocation)
        self.tail.when_started_over(self.recent.start_over)
        world.storage.listeners[self.number] = self._hear
        self._tasks = [asyncio.ensure_future(self._serve())]

    def _hear(self) -> None:
        if self._world.rng.random() >= self._world.lost_wakeups:
            self.tail.wake()

    async def _serve(self) -> None:
        while True:
            with suppress(TrustError):
                with suppress(TrustError):
                    await self.barriers.join()
                await self.tail.start()
                await self.recent.load(self.log, self.tail.position)
                break
            await asyncio.sleep(0.05)
        self.alive = True
        await asyncio.gather(self.tail.run(), self.barriers.run())

    def kill(self) -> None:
        self.alive = False
        for task in (*self._tasks, self.barriers._looking):
            if task is not None:
                task.cancel()
        self._world.storage.listeners.pop(self.number, None)
        for link in self._world.links_of_replica(self.number):
            link.drop_all()
        self.awake.open()

    async def validate(self, session_id: str, min_revision: int, tolerated: timedelta) -> UpstreamAnswer:
        if not self.alive:
            raise UnreachableError
        sessions = self.sessions
        await self.awake.passed()
        found = await sessions.validate(
            session_id, mode=None, context=BROWSER, min_revision=min_revision, max_staleness=tolerated
        )
        await self.awake.passed()
        if not self.alive or sessions is not self.sessions:
            raise UnreachableError
        return answer_of(found.result, found.revision)

    def connect(self, link: Link, sidecar: "Sidecar") -> WatchCall:
        return cast("WatchCall", VirtualWatchCall(link, self, sidecar))

    def watch(self, requests: AsyncIterator[Any]) -> AsyncIterator[bridge_pb2.WatchRevocationsResponse]:
        if not self.alive:
            raise UnreachableError
        stream = WatchStream(
            tail=self.tail,
            log=self.log,
            bridges=cast("Any", _AcceptAll()),
            watchers=self.watchers,
            barriers=self.barriers,
            longest_staleness=LONGEST_STALENESS,
            clock=self.clock,
            caller=_CALLER,
        )
        return stream.serve(requests)


# ---- The sidecar -----------------------------------------------------------------------------------------------


def _unavailable() -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


class VirtualWatchCall:
    """A watch stream over a link: messages arrive in their order, or the call is over."""

    def __init__(self, link: Link, replica: Replica, sidecar: "Sidecar") -> None:
        self._link = link
        self._replica = replica
        self._sidecar = sidecar
        self._sent: asyncio.Queue[Any] = asyncio.Queue()
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._received: asyncio.Queue[Any] = asyncio.Queue()
        self._over = False
        link.when_cut(self, self._cut)
        self._tasks = [asyncio.ensure_future(self._deliver()), asyncio.ensure_future(self._serve())]

    async def write(self, request: Any) -> None:
        if self._over:
            raise asyncio.InvalidStateError
        self._sent.put_nowait(request)

    async def read(self) -> Any:
        received = await self._received.get()
        if isinstance(received, Exception):
            raise received
        return received

    def cancel(self) -> None:
        """Give the call up. The replica hears of it later, and maybe after another call has begun."""
        self._over = True
        self._link.forget(self)
        asyncio.get_running_loop().call_later(3 * self._link.delay(), self._end)

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _cut(self) -> None:
        self._over = True
        self._received.put_nowait(_unavailable())
        self._end()

    async def _deliver(self) -> None:
        try:
            while True:
                request = await self._sent.get()
                await self._sidecar.awake.passed()
                await self._link.stream_hears.passed()
                await self._link.carry()
                self._arrived.put_nowait(request)
        except UnreachableError:
            self._cut()

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            request = await self._arrived.get()
            await self._replica.awake.passed()
            yield request

    async def _serve(self) -> None:
        try:
            await self._link.carry()
            async for response in self._replica.watch(self._requests()):
                await self._replica.awake.passed()
                await self._link.stream_hears.passed()
                await self._link.carry()
                await self._sidecar.awake.passed()
                self._received.put_nowait(response)
        except (UnreachableError, TrustError):
            self._cut()


class VirtualUpstream:
    """What `bridge_sidecar.upstream` is: asks a replica, another one when it cannot be reached."""

    def __init__(self, world: "World", sidecar: "Sidecar") -> None:
        self._world = world
        self._sidecar = sidecar
        self._next = world.rng.randrange(world.replica_count)

    def _pick(self) -> tuple[Link, Replica | ModelReplica]:
        for _ in range(self._world.replica_count):
            self._next = (self._next + 1) % self._world.replica_count
            link, replica = self._world.link(self._sidecar.number, self._next), self._world.replicas[self._next]
            if not link.broken and replica.alive:
                return link, replica
        raise UnreachableError

    async def report_mismatch(
        self, session_id: str, *, mode: ValidationMode, context: RequestContext, rule: Rule, timeout_seconds: float
    ) -> int:
        raise AssertionError("no rule of a schedule reports")

    async def validate_session(self, session_id: str, *, min_revision: int, timeout_seconds: float) -> UpstreamAnswer:
        tolerated = timedelta(seconds=STALENESS_SECONDS - UPSTREAM_TIMEOUT_SECONDS)
        for _ in range(3):
            try:
                link, replica = self._pick()
                await self._sidecar.awake.passed()
                await link.carry()
                answer = await replica.validate(session_id, min_revision, tolerated)
                await asyncio.sleep(link.answers_wait_seconds)
                await link.carry()
                await self._sidecar.awake.passed()
            except UnreachableError:
                await asyncio.sleep(0.01)
            else:
                return answer
        raise TrustError(Reason.UPSTREAM_UNAVAILABLE, "unreachable")

    def watch(self) -> WatchCall:
        try:
            link, replica = self._pick()
        except UnreachableError:
            link, replica = self._world.link(self._sidecar.number, 0), self._world.replicas[0]
        return replica.connect(link, self._sidecar)

    def explain(self, error: grpc.RpcError) -> TrustError:
        return TrustError(Reason.UPSTREAM_UNAVAILABLE, "unreachable")

    watch_has_moved = False


class _NoActivity:
    def record(self, key: bytes, *, now_ns: int, idle_expires_at_ns: int) -> None:
        """Nobody wants to know."""


class Sidecar:
    """One sidecar: its real core over the virtual network. May be killed and started again, and paused."""

    def __init__(self, world: "World", number: int) -> None:
        self._world = world
        self.number = number
        self.awake = Gate()
        self.clock = VirtualClock(world.loop, offset_seconds=world.rng.uniform(0, 1e6))
        self.start()

    def start(self) -> None:
        world = self._world
        source = VirtualUpstream(world, self)
        self.cache = SessionCache(
            limits=CacheLimits(
                max_entries=world.rng.choice((3, 100)),
                max_bytes=10**7,
                negative_max_entries=10,
                negative_ttl_ns=ns(1.0),
                remembered_revocations=world.rng.choice((2, 100)),
            )
        )
        self.lease = Lease(max_staleness_ns=ns(STALENESS_SECONDS))
        self.validator = Validator(
            cache=self.cache,
            lease=self.lease,
            source=source,
            activity=_NoActivity(),
            clock=self.clock,
            limits=MissLimits(max_concurrent=4, max_waiting=20, upstream_timeout_seconds=UPSTREAM_TIMEOUT_SECONDS),
            mismatches=MismatchReporter(receiver=source, timeout_seconds=UPSTREAM_TIMEOUT_SECONDS),
        )
        self.watch = RevocationWatch(
            source=source,
            cache=self.cache,
            lease=self.lease,
            clock=self.clock,
            random=world.rng.random,
            settings=WatchSettings(
                instance=f"sidecar-{self.number}",
                watcher_id=f"watcher-{world.next_id()}",
                max_staleness_ns=ns(STALENESS_SECONDS),
                trusted_ns=ns(STALENESS_SECONDS),
                ping_interval_ns=ns(STALENESS_SECONDS / 2),
                backoff=Backoff(first_seconds=0.02, cap_seconds=0.2),
            ),
            told=SentFigures(counters=self.validator.counters, cache=self.cache, lease=self.lease, clock=self.clock),
        )
        self._watching = asyncio.ensure_future(self.watch.run())

    def kill(self) -> None:
        self._watching.cancel()
        self.awake.open()


# ---- The world -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class World:
    """All of it, and what the clients recorded."""

    loop: VirtualLoop
    rng: random.Random
    sidecar_count: int = 1
    replica_count: int = 1
    core: bool = False
    storage: Storage = field(init=False)
    redis: Redis = field(init=False)
    replicas: list[Replica | ModelReplica] = field(init=False, default_factory=list)
    sidecars: list[Sidecar] = field(init=False, default_factory=list)
    history: list[Event] = field(init=False, default_factory=list)
    lost_wakeups: float = 0.0
    revoked: dict[str, int] = field(init=False, default_factory=dict)
    live: list[str] = field(init=False, default_factory=list)
    made: list[str] = field(init=False, default_factory=list)
    _ids: Iterator[int] = field(init=False, default_factory=lambda: itertools.count(1))
    _asking: list[asyncio.Task[None]] = field(init=False, default_factory=list)
    _links: dict[tuple[int, int], Link] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.storage = Storage(self.rng)
        self.redis = Redis(self.rng)
        for pair in itertools.product(range(self.sidecar_count), range(self.replica_count)):
            self._links[pair] = Link(self.rng)
        for number in range(self.replica_count):
            self.replicas.append(ModelReplica(self, number) if self.core else Replica(self, number))
        for number in range(self.sidecar_count):
            self.sidecars.append(Sidecar(self, number))

    def link(self, sidecar: int, replica: int) -> Link:
        return self._links[sidecar, replica]

    def links_of_replica(self, replica: int) -> list[Link]:
        return [link for (_, end), link in self._links.items() if end == replica]

    def links_of_sidecar(self, sidecar: int) -> list[Link]:
        return [link for (end, _), link in self._links.items() if end == sidecar]

    def next_id(self) -> int:
        return next(self._ids)

    def now_ns(self) -> int:
        return ns(self.loop.time())

    # Clients.

    def log_in(self, user: User | None = None) -> str:
        """Make a session, in no time: logins are not what is looked for."""
        if user is None:
            user = new_user()
            self.storage.users[user.id] = user
            self.storage.epochs[user.id] = 1
        session_id = _SESSION_IDS[len(self.made)]
        now = self.replicas[0].clock.now()
        session = replace(
            _SESSION,
            user_id=user.id,
            epoch=self.storage.epochs[user.id],
            digest=digest(session_id),
            created_at=now,
            authenticated_at=now,
            last_seen_at=now,
            expires_at=now + LIMITS.absolute,
        )
        self.storage.sessions[session.digest] = session
        self.live.append(session_id)
        self.made.append(session_id)
        self.history.append(Login(session=session_id, started_ns=self.now_ns(), ended_ns=self.now_ns()))
        return session_id

    async def validate(self, sidecar: Sidecar, session_id: str, min_revision: int) -> None:
        started_ns = self.now_ns()
        question = Question(
            session_id=session_id,
            mode=ValidationMode.STANDARD,
            context=BROWSER,
            rule=_RULE,
            min_revision=min_revision,
        )
        await sidecar.awake.passed()
        revision = 0
        try:
            verdict = await sidecar.validator.validate(question)
        except TrustError:
            outcome = Outcome.UNAVAILABLE
        else:
            outcome = Outcome.DENIED if verdict.denial else Outcome.ACTIVE
            revision = verdict.revision
        await sidecar.awake.passed()
        self.history.append(
            Validation(
                session=session_id,
                sidecar=str(sidecar.number),
                started_ns=started_ns,
                ended_ns=self.now_ns(),
                outcome=outcome,
                revision=revision,
                min_revision=min_revision,
            )
        )

    async def ask_for_ever(self, number: int) -> None:
        """Validate on one sidecar, sessions that are live and, more often, those that were revoked last."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.0, 0.16))
            ended = list(self.revoked)[-3:]
            session_id = self.rng.choice(ended) if ended and self.rng.random() < 0.6 else self.rng.choice(self.live)
            demands = ended and self.rng.random() < 0.1
            min_revision = self.revoked[ended[-1]] if demands else 0
            if self.rng.random() < 0.3:
                self.soon(self.sidecars[number], session_id)
            await self.validate(self.sidecars[number], session_id, min_revision)

    def soon(self, sidecar: Sidecar, session_id: str) -> None:
        """Validate beside whatever else goes on."""
        delay = self.rng.uniform(0, 0.05)
        self._asking.append(asyncio.ensure_future(_later(delay, lambda: self.validate(sidecar, session_id, 0))))

    async def revoke(self) -> None:
        """Revoke a session, or all of its user's, on some replica, sometimes waiting for all sidecars."""
        alive = [replica for replica in self.replicas if replica.alive]
        if len(self.live) < 2 or not alive:
            return
        replica = self.rng.choice(alive)
        barriers = replica.barriers
        session_id = self.live.pop(self.rng.randrange(len(self.live)))
        key = digest(session_id)
        user_id = self.storage.sessions[key].user_id
        whole_user = self.rng.random() < 0.3
        ids = [session_id]
        if whole_user:
            # Also those that somebody else is about to revoke.
            ids = [other for other in self.made if self.storage.sessions[digest(other)].user_id == user_id]
            self.live[:] = [other for other in self.live if other not in ids]
        for sidecar in self.sidecars:
            # Questions on their way while it is revoked are where late answers come from.
            if self.rng.random() < 0.5:
                self.soon(sidecar, session_id)
        await asyncio.sleep(self.rng.uniform(0, 0.05))
        started_ns = self.now_ns()
        index = len(self.history)
        # Recorded before it is done: until it has returned it excuses denials.
        self.history.append(Revoke(sessions=frozenset(ids), started_ns=started_ns, ended_ns=None))
        try:
            await replica.awake.passed()
            revision = await self.storage.revoke(key, whole_user=whole_user)
            replica.tail.wake()
            self.storage.wake()
            await replica.awake.passed()
        except TrustError:
            self.revoked.update(dict.fromkeys(ids, 0))
            return
        reached = False
        if not self.core and self.rng.random() < 0.5:
            reached = (await barriers.wait(revision, timeout_seconds=2.0)).reached
            await replica.awake.passed()
        self.revoked.update(dict.fromkeys(ids, revision))
        self.history[index] = Revoke(
            sessions=frozenset(ids),
            started_ns=started_ns,
            ended_ns=self.now_ns(),
            revision=revision,
            barrier_reached=reached,
        )
        for sidecar in self.sidecars:
            self.soon(sidecar, session_id)


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault, when it begins, how long it lasts, and what it concerns."""

    kind: str
    at_seconds: float
    lasts_seconds: float
    target: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """What happens in one run."""

    seed: int
    core: bool
    sidecars: int
    replicas: int
    faults: tuple[Planned, ...]
    revokes_at: tuple[float, ...]
    lost_wakeups: float


def schedule(seed: int, *, core: bool = False, only: Sequence[str] = (), replicas: int = 0) -> Schedule:
    """Draw a schedule; the same seed gives the same one.

    `core`: of one sidecar over a model of Flowless. `only`: with no other faults than these. `replicas`: that many.
    """
    rng = random.Random(seed)
    begins_before = (CORE_SECONDS if core else SECONDS) - _QUIET_SECONDS
    kinds = sorted(only or (FAULTS.keys() - _NOT_OF_THE_CORE if core else FAULTS))
    faults = tuple(
        Planned(
            kind=rng.choice(kinds),
            at_seconds=rng.uniform(0.1, begins_before),
            lasts_seconds=rng.choice((0.0, 0.08, 0.25, 0.5)),
            target=rng.randrange(12),
        )
        for _ in range(rng.randrange(1, 4))
    )
    return Schedule(
        seed=seed,
        core=core,
        sidecars=1 if core else rng.choice((1, 1, 1, 2)),
        replicas=rng.choice((1, 2)) if replicas == 0 else replicas,
        faults=faults,
        revokes_at=tuple(sorted(rng.uniform(0.1, begins_before) for _ in range(2 if core else 3))),
        lost_wakeups=rng.choice((0.0, 0.0, 0.5, 1.0)),
    )


def simulated(plan: Schedule, prepare: Callable[[World], None] | None = None) -> list[Event]:
    """Run a schedule and return the history. `prepare` may break a rule first.

    On a loop of its own: what an earlier schedule left behind, or how late it became, changes nothing.
    """
    with VirtualLoop.opened() as loop:
        return run(loop, _simulate(loop, plan, prepare))


async def _simulate(loop: VirtualLoop, plan: Schedule, prepare: Callable[[World], None] | None) -> list[Event]:
    world = World(
        loop, random.Random(plan.seed), sidecar_count=plan.sidecars, replica_count=plan.replicas, core=plan.core
    )
    if prepare is not None:
        prepare(world)
    world.lost_wakeups = plan.lost_wakeups
    for _ in range(3):
        user = world.storage.users[world.storage.sessions[digest(world.log_in())].user_id]
        if world.rng.random() < 0.5:
            world.log_in(user)
    began = loop.time()
    timers = [
        asyncio.ensure_future(_later(planned.at_seconds, functools.partial(_strike, world, planned)))
        for planned in plan.faults
    ]
    timers += [asyncio.ensure_future(_later(at, world.revoke)) for at in plan.revokes_at]
    clients = [asyncio.ensure_future(world.ask_for_ever(number)) for number in range(plan.sidecars)]
    await asyncio.sleep(began + (CORE_SECONDS if plan.core else SECONDS) - loop.time())
    for client in clients:
        client.cancel()
    for task in timers:
        if task.done() and not task.cancelled():
            task.result()
    return world.history


async def _later(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await work()


async def _strike(world: World, planned: Planned) -> None:
    begin, end = FAULTS[planned.kind]
    begin(world, planned.target)
    await asyncio.sleep(planned.lasts_seconds)
    end(world, planned.target)


def _nothing(_: World, __: int) -> None:
    """Nothing has to be mended."""


def _link(world: World, target: int) -> Link:
    return world.link(target % world.sidecar_count, target // world.sidecar_count % world.replica_count)


def _sidecar(world: World, target: int) -> Sidecar:
    return world.sidecars[target % world.sidecar_count]


def _replica(world: World, target: int) -> Replica | ModelReplica:
    return world.replicas[target % world.replica_count]


def _mend(link: Link) -> None:
    link.broken = False
    link.slow_seconds = link.answers_wait_seconds = 0.0
    link.hears.open()
    link.stream_hears.open()


def _cut_off(world: World, target: int) -> None:
    for link in world.links_of_sidecar(_sidecar(world, target).number):
        link.cut()


def _deafen(world: World, target: int) -> None:
    for link in world.links_of_sidecar(_sidecar(world, target).number):
        link.hears.close()


def _reconnect(world: World, target: int) -> None:
    for link in world.links_of_sidecar(_sidecar(world, target).number):
        _mend(link)


def _slow(world: World, target: int) -> None:
    _link(world, target).slow_seconds = 0.25


def _hold_answers(world: World, target: int) -> None:
    _link(world, target).answers_wait_seconds = 0.1


def _cut_storage(world: World, target: int) -> None:
    _replica(world, target).storage_cut = True


def _join_storage(world: World, target: int) -> None:
    _replica(world, target).storage_cut = False


def _start_replica(world: World, target: int) -> None:
    replica = _replica(world, target)
    if not replica.alive:
        replica.kill()  # one that was still starting
        replica.start()


def _start_sidecar(world: World, target: int) -> None:
    sidecar = _sidecar(world, target)
    sidecar.kill()
    sidecar.start()


def _set(name: str, value: Any, *, of: str) -> Callable[[World, int], None]:
    def change(world: World, _: int) -> None:
        setattr(getattr(world, of), name, value)

    return change


def _save_redis(world: World, _: int) -> None:
    world.redis.saved = dict(world.redis.entries)


def _restore_redis(world: World, _: int) -> None:
    world.redis.entries = dict(world.redis.saved)


def _step(seconds: float) -> Callable[[World, int], None]:
    def step(world: World, target: int) -> None:
        _replica(world, target).clock.wall_seconds += seconds

    return step


FAULTS: Final[dict[str, tuple[Callable[[World, int], None], Callable[[World, int], None]]]] = {
    "link cut": (lambda w, t: _link(w, t).cut(), lambda w, t: _mend(_link(w, t))),
    "link deaf": (lambda w, t: _link(w, t).hears.close(), lambda w, t: _mend(_link(w, t))),
    "link slow": (_slow, lambda w, t: _mend(_link(w, t))),
    "answers slow": (_hold_answers, lambda w, t: _mend(_link(w, t))),
    "watch deaf": (lambda w, t: _link(w, t).stream_hears.close(), lambda w, t: _mend(_link(w, t))),
    "sidecar cut off": (_cut_off, _reconnect),
    "sidecar deaf": (_deafen, _reconnect),
    "sidecar killed": (lambda w, t: _sidecar(w, t).kill(), _start_sidecar),
    "sidecar paused": (
        lambda w, t: _sidecar(w, t).awake.close(),
        lambda w, t: _sidecar(w, t).awake.open(),
    ),
    "replica killed": (lambda w, t: _replica(w, t).kill(), _start_replica),
    "replica paused": (
        lambda w, t: _replica(w, t).awake.close(),
        lambda w, t: _replica(w, t).awake.open(),
    ),
    "replica cut off from storage": (_cut_storage, _join_storage),
    "wall clock forward": (_step(3_600), _nothing),
    "wall clock back": (_step(-3_600), _nothing),
    "storage down": (_set("down", True, of="storage"), _set("down", False, of="storage")),
    "storage slow": (_set("slow_seconds", 0.2, of="storage"), _set("slow_seconds", 0.0, of="storage")),
    "storage paused": (lambda w, _: w.storage.runs.close(), lambda w, _: w.storage.runs.open()),
    "redis down": (_set("down", True, of="redis"), _set("down", False, of="redis")),
    "redis slow": (_set("slow_seconds", 0.2, of="redis"), _set("slow_seconds", 0.0, of="redis")),
    "redis flushed": (lambda w, _: w.redis.entries.clear(), _nothing),
    "redis replaced by an old snapshot": (_save_redis, _restore_redis),
}
"""Name of a fault -> what begins it and what ends it."""

_NOT_OF_THE_CORE: Final = frozenset(
    kind for kind in FAULTS if kind.startswith(("redis", "wall clock", "replica cut off"))
)
"""What the model of Flowless has not."""
