"""Measure storage: a hit in each tier, the share of hits under a Zipf load, and what grows with what: `make bench`.

Real processes: PostgreSQL, Redis, Flowless, a sidecar. A Python client asks, and its own time (which the first row of
the table shows most of) is in every figure; tiers take turns in every round. Speed never fails the command.
"""

import argparse
import asyncio
import base64
import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import sqlalchemy as sa
from google.protobuf.duration_pb2 import Duration

from bench import report
from bench.samples import DIFFERENT_IDS, over_rounds, timed
from bench.sessions import CONTEXT, UnexpectedAnswerError, request_for
from flowless.adapters.sql import rows
from flowless.adapters.sql.schema import sessions, users
from flowless.domain.sessions import Session
from flowless.domain.users import Profile, User, UserStatus
from tools.postgres_server import PostgresServer
from tools.processes import (
    TESTING,
    FlowlessProcess,
    ProcessError,
    SidecarProcess,
    exit_on_sigterm,
    temporary_directory,
)
from tools.redis_server import RedisServer
from trust_core import identifiers, modes
from trustlayer.v1 import (
    bridge_pb2,
    bridge_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    types_pb2,
    validator_pb2_grpc,
)

CALL_SECONDS: Final = 30.0
ZIPF_EXPONENT: Final = 1.1
CHURN: Final = 0.005
"""Share of the requests after which some user's session is revoked and replaced by another."""
PING_SECONDS: Final = 0.5
CLAIMS: Final = "claimed: 97 % hits, < 0.1 ms LRU, < 1 ms Redis, ~50 ms database"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    users: int
    cache_entries: int
    zipf_requests: int
    rounds: int
    seconds: float
    stored: tuple[int, ...]
    user_sessions: int
    watchers: tuple[int, ...]
    watch_seconds: float


FULL: Final = Size(10_000, 2_000, 30_000, 5, 1.0, (1_000, 100_000, 1_000_000), 10_000, (1, 10, 100, 1_000), 5.0)
QUICK: Final = Size(200, 40, 300, 1, 0.1, (200, 1_000), 50, (1, 10), 0.5)


@dataclass(slots=True)
class Stored:
    """A session that is in the database."""

    session_id: str
    handle: str
    user_id: str


class Rig:
    """Everything that runs, and the sessions in it."""

    def __init__(self, stack: ExitStack, directory: Path, size: Size) -> None:
        postgres = stack.enter_context(PostgresServer())
        redis = stack.enter_context(RedisServer())
        postgres.execute("CREATE DATABASE flowless")
        key_file = directory / "redis.key"
        key_file.write_text(base64.b64encode(os.urandom(32)).decode())
        environment = {**TESTING, "FLOWLESS_REDIS_URL": redis.url, "FLOWLESS_REDIS_KEY_FILE": str(key_file)}
        self.flowless = stack.enter_context(
            FlowlessProcess(directory=directory, database_url=postgres.url("flowless"), environment=environment)
        )
        self.secret = self.flowless.create_bridge("bench").secret
        self.metadata = (("authorization", f"Bearer {self.secret}"),)
        self.sidecar = stack.enter_context(
            SidecarProcess(
                directory=directory,
                upstream=self.flowless.address,
                secret=self.secret,
                environment={"BRIDGE_SIDECAR_CACHE_MAX_ENTRIES": str(size.cache_entries)},
            )
        )
        url = sa.make_url(postgres.url("flowless")).set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(url)
        stack.callback(self._engine.dispose)
        upstream = stack.enter_context(grpc.insecure_channel(self.flowless.address))
        self.bridge = bridge_pb2_grpc.BridgeServiceStub(upstream)
        self.session_service = session_pb2_grpc.SessionServiceStub(upstream)
        local = stack.enter_context(grpc.insecure_channel(self.sidecar.address))
        self.validator = validator_pb2_grpc.ValidatorServiceStub(local)
        self._filled = itertools.count()
        self.stored = 0

    def add(self, count: int, *, user_ids: Sequence[str] = ()) -> list[Stored]:
        """Store sessions, each of a user of its own unless users are given."""
        now = datetime.now(UTC)
        made, user_rows, session_rows = [], [], []
        for number in range(count):
            user_id = user_ids[number % len(user_ids)] if user_ids else identifiers.new_user_id(os.urandom)
            session_id = identifiers.new_session_id(os.urandom)
            if not user_ids:
                user_rows.append(_user_row(user_id, now))
            session = _session(session_id, user_id, now)
            session_rows.append(rows.session_values(session) | {"used_by": ""})
            made.append(Stored(session_id, session.handle, user_id))
        with self._engine.begin() as connection:
            if user_rows:
                connection.execute(sa.insert(users), user_rows)
            connection.execute(sa.insert(sessions), session_rows)
        self.stored += count
        return made

    def fill(self, count: int, user_id: str) -> None:
        """Store that many sessions of one user that nobody asks for, made by the database itself."""
        names = ", ".join(column.name for column in sessions.c)
        changed = {
            "digest": f"sha256(('{next(self._filled)}:' || n)::bytea)",
            "handle": f"'{next(self._filled)}:' || n",
            "user_id": f"'{user_id}'",
            "epoch": "1",
        }
        values = ", ".join(changed.get(column.name, f"s.{column.name}") for column in sessions.c)
        with self._engine.begin() as connection:
            connection.exec_driver_sql(
                f"INSERT INTO sessions ({names}) SELECT {values} "
                f"FROM (SELECT * FROM sessions LIMIT 1) s, generate_series(1, {int(count)}) n"
            )
        self.stored += count

    def analyze(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")

    def from_flowless(self, session_id: str, tier: int, *, staleness: int = 0) -> None:
        request = bridge_pb2.ValidateSessionRequest(session_id=session_id, max_staleness=Duration(seconds=staleness))
        answer = self.bridge.ValidateSession(request, metadata=self.metadata, timeout=CALL_SECONDS)
        if not answer.HasField("active") or answer.freshness.tier not in (tier, types_pb2.TIER_DATABASE):
            raise UnexpectedAnswerError("a stored session was denied, or another tier answered")

    def from_sidecar(self, session_id: str) -> int:
        answer = self.validator.Validate(request_for(session_id), timeout=CALL_SECONDS)
        if not answer.HasField("session"):
            raise UnexpectedAnswerError("a stored session was denied")
        return answer.freshness.tier

    def revoke(self, handle: str) -> int:
        request = session_pb2.RevokeSessionRequest(handle=handle)
        return self.session_service.RevokeSession(request, metadata=self.metadata, timeout=CALL_SECONDS).revision

    def revoke_user(self, user_id: str) -> None:
        request = session_pb2.RevokeUserSessionsRequest(user_id=user_id)
        self.session_service.RevokeUserSessions(request, metadata=self.metadata, timeout=CALL_SECONDS)

    def cpu_seconds(self) -> float:
        """CPU time of Flowless since its start."""
        fields = Path(f"/proc/{self.flowless.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _user_row(user_id: str, now: datetime) -> dict[str, object]:
    user = User(
        id=user_id,
        email=f"{user_id}@example.org",
        email_verified=True,
        status=UserStatus.ACTIVE,
        profile=Profile(name="Ada", last_name="Lovelace", roles=("reader", "writer")),
        created_at=now,
        updated_at=now,
    )
    return rows.user_values(user) | {"canonical_email": user.email, "password_hash": "none", "session_epoch": 1}


def _session(session_id: str, user_id: str, now: datetime) -> Session:
    context = modes.RequestContext(CONTEXT.client_ip, CONTEXT.device_fingerprint, CONTEXT.user_agent)
    return Session(
        digest=identifiers.digest(session_id),
        handle=identifiers.new_session_handle(os.urandom),
        user_id=user_id,
        epoch=1,
        binding=modes.bind(context, os.urandom(32)),
        methods=("password",),
        device_name="",
        bridge_id="",
        created_at=now,
        authenticated_at=now,
        last_seen_at=now,
        expires_at=now + timedelta(days=1),
    )


def milliseconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e3


def growth(rig: Rig, size: Size) -> str:
    """Validations by the database while ever more sessions are stored."""
    known = rig.add(size.stored[0])
    lines = []
    for stored in size.stored:
        if stored > rig.stored:
            say(f"storing {stored:,} sessions")
            rig.fill(stored - rig.stored, known[0].user_id)
        rig.analyze()
        chosen = random.sample(known, min(len(known), 500))
        times = [
            milliseconds(lambda s=one: rig.from_flowless(s.session_id, types_pb2.TIER_DATABASE))  # type: ignore[misc]
            for one in chosen * 4
        ]
        p50, p99 = report.median(times), report.quantile(times, 0.99)
        lines.append((f"{stored:,} sessions stored", report.figure(p50), report.figure(p99)))
    return report.table(("validated by PostgreSQL", "p50 ms", "p99 ms"), lines)


def tiers(rig: Rig, size: Size, known: Sequence[Stored]) -> str:
    """One validation in each tier, in turns."""
    ids = [one.session_id for one in known[: min(DIFFERENT_IDS, size.cache_entries // 2)]]
    for session_id in ids * 2:
        rig.from_sidecar(session_id)
        rig.from_flowless(session_id, types_pb2.TIER_REDIS, staleness=1)
    subjects: dict[str, Callable[[int], object]] = {
        "LRU (sidecar, Unix socket)": lambda n: rig.from_sidecar(ids[n % len(ids)]),
        "Redis (Flowless)": lambda n: rig.from_flowless(ids[n % len(ids)], types_pb2.TIER_REDIS, staleness=1),
        "PostgreSQL (Flowless)": lambda n: rig.from_flowless(ids[n % len(ids)], types_pb2.TIER_DATABASE),
    }
    samples: dict[str, list[Any]] = {name: [] for name in subjects}
    for _ in range(size.rounds):
        for name, call in subjects.items():
            samples[name].append(timed(call)(size.seconds))
    figures = {name: over_rounds(samples[name]) for name in subjects}
    base = figures["LRU (sidecar, Unix socket)"]
    return report.table(
        ("tier", "p50 ms", "p99 ms", "p50 / LRU"),
        [
            (
                name,
                report.figure(s.p50_us / 1e3),
                report.figure(s.p99_us / 1e3),
                report.figure(s.p50_us / base.p50_us),
            )
            for name, s in figures.items()
        ],
    )


def zipf(rig: Rig, size: Size, known: list[Stored]) -> str:
    """Ask for sessions as users do: some very often, most seldom; now and then one ends and another begins."""
    generator = random.Random(1)
    weights = list(itertools.accumulate(1 / rank**ZIPF_EXPONENT for rank in range(1, len(known) + 1)))
    answers = {types_pb2.TIER_LRU: 0, types_pb2.TIER_REDIS: 0, types_pb2.TIER_DATABASE: 0}
    ended = 0
    for place in generator.choices(range(len(known)), cum_weights=weights, k=size.zipf_requests):
        answers[types_pb2.Tier.ValueType(rig.from_sidecar(known[place].session_id))] += 1
        if generator.random() < CHURN:
            gone = generator.randrange(len(known))
            rig.revoke(known[gone].handle)
            (known[gone],) = rig.add(1, user_ids=[known[gone].user_id])
            ended += 1
    total = sum(answers.values())
    return "\n".join(
        (
            report.table(
                ("answered by", "share"),
                [(types_pb2.Tier.Name(tier), f"{count / total:.1%}") for tier, count in answers.items()],
            ),
            "",
            f"- {len(known):,} users, one session each; cache of {size.cache_entries:,} entries, cold at the start",
            f"- {total:,} validations, Zipf with exponent {ZIPF_EXPONENT}",
            f"- {ended} sessions revoked and replaced meanwhile",
            f"- {CLAIMS}",
        )
    )


def revocation(rig: Rig, size: Size) -> str:
    """Revoke all sessions of users who have one, and of users who have very many, in turns."""
    few, many = rig.add(5), rig.add(5)
    for one in many:
        rig.fill(size.user_sessions - 1, one.user_id)
    times: dict[int, list[float]] = {1: [], size.user_sessions: []}
    for a, b in zip(few, many, strict=True):
        times[1].append(milliseconds(lambda a=a: rig.revoke_user(a.user_id)))  # type: ignore[misc]
        times[size.user_sessions].append(milliseconds(lambda b=b: rig.revoke_user(b.user_id)))  # type: ignore[misc]
    return report.table(
        ("all of a user's sessions revoked", "median ms", "slowest ms"),
        [(f"{n:,} sessions", report.figure(report.median(t)), report.figure(max(t))) for n, t in times.items()],
    )


async def _watch(stub: Any, rig: Rig, lives: asyncio.Event) -> None:
    call = stub.WatchRevocations(metadata=rig.metadata)
    await call.write(bridge_pb2.WatchRevocationsRequest(start=bridge_pb2.WatchStart(instance="bench")))
    for nonce in itertools.count(1):
        await call.write(bridge_pb2.WatchRevocationsRequest(ping=bridge_pb2.WatchPing(nonce=nonce)))
        while (await call.read()).WhichOneof("message") != "pong":
            pass
        lives.set()
        await asyncio.sleep(PING_SECONDS)


async def _watched(rig: Rig, count: int, seconds: float) -> float:
    """Share of a core that Flowless takes for that many watchers."""
    channels = [
        grpc.aio.insecure_channel(rig.flowless.address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(1 + count // 500)  # a connection carries a thousand streams at most
    ]
    stubs = [bridge_pb2_grpc.BridgeServiceStub(channel) for channel in channels]
    lives = [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.create_task(_watch(stubs[n % len(stubs)], rig, lives[n])) for n in range(count)]
    try:
        async with asyncio.timeout(CALL_SECONDS):
            await asyncio.gather(*(live.wait() for live in lives))
        before, begun = rig.cpu_seconds(), time.monotonic()
        await asyncio.sleep(seconds)
        return (rig.cpu_seconds() - before) / (time.monotonic() - begun)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()


def watchers(rig: Rig, size: Size) -> str:
    """CPU of one replica while sidecars watch, each pinging twice a second."""
    lines = [
        (f"{count:,}", f"{asyncio.run(_watched(rig, count, size.watch_seconds)):.1%}") for count in size.watchers
    ]
    return report.table(("watching sidecars", "of one core"), lines)


def run(size: Size) -> str:
    busy = report.load_average()
    with temporary_directory() as directory, ExitStack() as stack:
        say("starting PostgreSQL, Redis, Flowless and a sidecar")
        rig = Rig(stack, directory, size)
        watched = watchers(rig, size)
        grown = growth(rig, size)
        known = rig.add(size.users)
        tier_table = tiers(rig, size, known)
        say(f"{size.zipf_requests:,} validations as users make them")
        shares = zipf(rig, size, known)
        revoked = revocation(rig, size)
    return "\n\n".join(
        (
            "# Storage",
            report.parameters(
                {
                    "load average at start": busy,
                    "rounds": size.rounds,
                    "seconds per tier and round": size.seconds,
                    "client": "Python, one call at a time; its own time is in every figure",
                }
            ),
            tier_table,
            shares,
            grown,
            revoked,
            watched,
        )
    )


def say(text: str) -> None:
    """Tell a waiting person what goes on, away from the report."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.storage", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it runs, not how fast")
    arguments = parser.parse_args()
    exit_on_sigterm()
    try:
        print(run(QUICK if arguments.quick else FULL))
    except (ProcessError, UnexpectedAnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"error: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
