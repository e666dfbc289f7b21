"""The only composition root of Flowless: settings in, services out. `serving.py` runs them behind listeners."""

import os
import random
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from flowless.adapters.attempts.counters import LocalCounters, SharedCounters
from flowless.adapters.email_addresses import LibraryEmailAddresses
from flowless.adapters.paseto import PasetoTokens
from flowless.adapters.passwords.breached import BreachedPasswordRanges, NoBreachedPasswords
from flowless.adapters.passwords.hasher import Argon2PasswordHasher
from flowless.adapters.passwords.pool import HashingPool, hashing_workers
from flowless.adapters.redis.calls import MAX_CONNECTIONS
from flowless.adapters.redis.connect import connect
from flowless.adapters.redis.payload import KEY_BYTES, PayloadSealer
from flowless.adapters.redis.tier import RedisSessionTier
from flowless.adapters.smtp import SmtpTransport, sender_of
from flowless.adapters.sql.audit import SqlAuditTrail
from flowless.adapters.sql.bridges import SqlBridgeStore
from flowless.adapters.sql.database import Database
from flowless.adapters.sql.housekeeping import SqlHousekeepingStore
from flowless.adapters.sql.migrate import require_served
from flowless.adapters.sql.outbox import SqlOutbox
from flowless.adapters.sql.replicas import SqlReplicaRegistry
from flowless.adapters.sql.revocation_log import SqlRevocationLog
from flowless.adapters.sql.sessions import SqlSessionStore
from flowless.adapters.sql.signing_keys import SqlSigningKeyStore
from flowless.adapters.sql.statements import StatementWatch
from flowless.adapters.sql.trust_tokens import SqlTrustTokenStore
from flowless.adapters.sql.users import SqlUserStore
from flowless.config import Settings
from flowless.domain.mail import MailError
from flowless.domain.sessions import SessionLimits
from flowless.ports.attempts import AttemptCounters
from flowless.ports.session_tier import NoSessionTier, SessionTier
from flowless.services.attempts import AttemptLimiter
from flowless.services.audit import AuditLog
from flowless.services.barriers import Barriers
from flowless.services.bridge_uses import BridgeUses, NoUseRecorder
from flowless.services.bridges import Bridges
from flowless.services.credentials import UserPasswords
from flowless.services.housekeeping import Housekeeping, Retention
from flowless.services.logins import Logins, SessionFactory
from flowless.services.open_streams import OpenStreams
from flowless.services.outbox import MailSender
from flowless.services.passwords import PasswordPolicy
from flowless.services.recent_revocations import RecentRevocations
from flowless.services.refusals import Refusals
from flowless.services.revocation_tail import RevocationTail
from flowless.services.session_tiers import SessionTiers
from flowless.services.sessions import Sessions
from flowless.services.signing_keys import SigningKeys
from flowless.services.token_effects import TokenEffects
from flowless.services.trust_tokens import TrustTokens
from flowless.services.user_import import UserImport
from flowless.services.users import Users
from flowless.services.watchers import Watchers
from trust_core import logs
from trust_core.clock import Clock, SystemClock
from trust_core.tracing import Tracer


@dataclass(frozen=True, kw_only=True)
class Flowless:
    """The services over one database; what the commands and the server both need."""

    settings: Settings
    clock: Clock
    hashing: HashingPool
    database: Database
    log: SqlRevocationLog
    users: Users
    user_import: UserImport
    passwords: UserPasswords
    logins: Logins
    attempts: AttemptLimiter
    sessions: Sessions
    audit: AuditLog
    keys: SigningKeys
    tokens: TrustTokens
    effects: TokenEffects
    bridges: Bridges
    bridge_uses: BridgeUses
    streams: OpenStreams
    refusals: Refusals
    tail: RevocationTail
    watchers: Watchers
    barriers: Barriers
    recent: RecentRevocations
    tiers: SessionTiers
    tier: SessionTier
    mail: MailSender | None
    housekeeping: Housekeeping


def open_database(settings: Settings) -> Database:
    """Prepare the database; connects at first use. Raises ConfigError."""
    return Database.open(
        settings.database_url,
        password=settings.database_password(),
        busy_timeout_seconds=settings.busy_timeout_seconds,
        pool_size=settings.database_pool_size,
    )


@asynccontextmanager
async def open_flowless(
    settings: Settings, *, serving: bool = False, tracer: Tracer | None = None
) -> AsyncIterator[Flowless]:
    """Build the services; close database, Redis and the hashing pool at the end. Commands need no Redis.

    Raises SchemaError when the database's schema is not the one needed, ConfigError for files that cannot be used.
    """
    clock = SystemClock()
    async with AsyncExitStack() as closing:
        pool = HashingPool(
            profile=settings.password_profile,
            workers=hashing_workers(profile=settings.password_profile, servers=settings.workers),
            max_waiting=settings.hashing_queue,
            clock=clock,
        )
        closing.push_async_callback(pool.close)
        hasher = Argon2PasswordHasher(profile=settings.password_profile, pool=pool, pepper=settings.pepper())
        database = open_database(settings)
        closing.push_async_callback(database.close)
        database.watch_statements(
            StatementWatch(clock=clock, slow_seconds=settings.slow_query_seconds, tracer=tracer)
        )
        await require_served(database)
        user_store = SqlUserStore(database=database)
        addresses = LibraryEmailAddresses()
        audit = SqlAuditTrail(database=database)
        ranges = settings.breached_passwords_url
        breached = BreachedPasswordRanges(url=ranges) if ranges else NoBreachedPasswords()
        closing.push_async_callback(breached.close)
        policy = PasswordPolicy(
            minimum=settings.password_min_length,
            context_words=sorted(settings.password_context_words),
            common=settings.common_passwords(),
            breached=breached,
        )
        users = Users(
            store=user_store, hasher=hasher, policy=policy, addresses=addresses, clock=clock, random=os.urandom
        )
        counters = _attempt_counters(settings, clock, tracer, serving=serving)
        closing.push_async_callback(counters.close)
        attempts = AttemptLimiter(
            counters=counters,
            limits=settings.attempt_limits,
            audit=audit,
            # Counted in common under the key that is common; alone under one that nobody else needs.
            key=settings.redis_keys()[0] if serving and settings.redis_url is not None else os.urandom(KEY_BYTES),
            clock=clock,
        )
        passwords = UserPasswords(
            users=user_store,
            hasher=hasher,
            policy=policy,
            audit=audit,
            attempts=attempts,
            clock=clock,
            random=os.urandom,
        )
        limits = SessionLimits(
            absolute=settings.session_absolute, idle=settings.session_idle, per_user=settings.session_max_per_user
        )
        store = SqlSessionStore(database=database)
        replica_id = secrets.token_hex(16)
        watchers = Watchers(max_departed=settings.max_watchers)
        barriers = Barriers(
            registry=SqlReplicaRegistry(database=database),
            watchers=watchers,
            clock=clock,
            replica_id=replica_id,
            name=f"{socket.gethostname()[:100]}-{os.getpid()}",
        )
        closing.push_async_callback(barriers.close)
        tail = RevocationTail(
            log=SqlRevocationLog(
                database=database,
                engine=database.tail_reader,
                replica_id=replica_id,
                confirmed_beat=lambda: barriers.confirmed_beat,
            ),
            membership=barriers,
            clock=clock,
            poll_interval=settings.poll_seconds,
            min_spacing=settings.min_read_spacing_seconds,
            max_subscriptions=settings.max_watchers,
            max_subscriptions_per_bridge=settings.max_watchers_per_bridge,
        )
        tier = _session_tier(settings, clock, tracer) if serving else NoSessionTier()
        recent = RecentRevocations()
        tiers = SessionTiers(
            store=store,
            tier=tier,
            recent=recent,
            tail=tail,
            limits=limits,
            max_ttl_seconds=settings.redis_ttl_seconds,
            longest_staleness_ns=lambda: barriers.longest_staleness_ns,
            clock=clock,
        )
        closing.push_async_callback(tiers.close)
        sessions = Sessions(
            store=store,
            reads=tiers,
            limits=limits,
            activity_interval=timedelta(seconds=settings.activity_interval_seconds),
            ip_prefixes=settings.ip_prefixes,
            clock=clock,
            random=os.urandom,
        )
        factory = SessionFactory(limits=limits, clock=clock, random=os.urandom)
        token_format = PasetoTokens(wrapping_keys=settings.signing_wrapping_keys(), random=os.urandom)
        keys = SigningKeys(store=SqlSigningKeyStore(database=database), tokens=token_format, clock=clock)
        bridge_store = SqlBridgeStore(database=database)
        bridge_uses = BridgeUses(store=bridge_store)
        bridges = Bridges(
            store=bridge_store, uses=bridge_uses if serving else NoUseRecorder(), clock=clock, random=os.urandom
        )
        token_store = SqlTrustTokenStore(database=database)
        tokens = TrustTokens(
            store=token_store,
            users=user_store,
            keys=keys,
            tokens=token_format,
            addresses=addresses,
            audit=audit,
            attempts=attempts,
            purposes=settings.trust_token_purposes,
            mail_purposes=settings.mail_purposes,
            clock=clock,
            random=os.urandom,
        )
        yield Flowless(
            settings=settings,
            clock=clock,
            hashing=pool,
            database=database,
            log=SqlRevocationLog(database=database),
            users=users,
            user_import=UserImport(
                store=user_store, hasher=hasher, addresses=addresses, clock=clock, random=os.urandom
            ),
            passwords=passwords,
            logins=Logins(
                store=store,
                sessions=sessions,
                users=users,
                passwords=passwords,
                factory=factory,
                attempts=attempts,
            ),
            attempts=attempts,
            sessions=sessions,
            audit=AuditLog(trail=audit),
            keys=keys,
            tokens=tokens,
            effects=TokenEffects(
                tokens=tokens,
                store=token_store,
                users=user_store,
                passwords=passwords,
                hasher=hasher,
                policy=policy,
                factory=factory,
                addresses=addresses,
                attempts=attempts,
                clock=clock,
                random=os.urandom,
            ),
            bridges=bridges,
            bridge_uses=bridge_uses,
            streams=OpenStreams(bridges=bridges),
            refusals=Refusals(audit=audit, clock=clock, on_refusal=_log_refusal),
            tail=tail,
            watchers=watchers,
            barriers=barriers,
            recent=recent,
            tiers=tiers,
            tier=tier,
            mail=_mail_sender(settings, database, tokens, clock),
            housekeeping=Housekeeping(
                store=SqlHousekeepingStore(database=database),
                retention=Retention(
                    sessions=timedelta(seconds=settings.session_retention_seconds),
                    bridge_secrets=timedelta(seconds=settings.session_retention_seconds),
                    log=timedelta(seconds=settings.log_retention_seconds),
                    trust_tokens=timedelta(seconds=settings.session_retention_seconds),
                    mail=timedelta(seconds=settings.session_retention_seconds),
                    audit=timedelta(days=settings.audit_retention_days) if settings.audit_retention_days else None,
                ),
                clock=clock,
                jitter=random.random,  # not secrecy
                interval_seconds=settings.housekeeping_interval_seconds,
                on_failure=lambda error: logs.get_logger("flowless").warning(
                    "housekeeping failed; tried again later", **logs.describe_exception(error)
                ),
            ),
        )


def _mail_sender(settings: Settings, database: Database, tokens: TrustTokens, clock: Clock) -> MailSender | None:
    sender = sender_of(settings.mail_from)
    if settings.smtp_url is None or sender is None:
        return None
    return MailSender(
        outbox=SqlOutbox(database=database),
        tokens=tokens,
        texts=settings.mail_templates(),
        transport=SmtpTransport(
            url=settings.smtp_url,
            password=settings.smtp_password(),
            ca_file=settings.smtp_ca_file,
            sender=sender,
            timeout_seconds=settings.smtp_timeout_seconds,
        ),
        links=settings.link_urls,
        attempt_seconds=settings.smtp_timeout_seconds,
        clock=clock,
        jitter=random.random,  # not secrecy
        random=os.urandom,
        on_failure=_log_mail_failure,
    )


def _log_refusal(reason: str, method: str, bridge_id: str) -> None:
    logs.get_logger("flowless").warning("call refused", reason=reason, called=method, bridge=bridge_id)


def _log_mail_failure(mail_id: str, error: Exception) -> None:
    # A MailError's text is ours and names nobody; of other exceptions only type and place are logged.
    why = {"why": str(error)} if isinstance(error, MailError) else logs.describe_exception(error)
    logs.get_logger("flowless").warning("mail was not sent", mail=mail_id, **why)


def _session_tier(settings: Settings, clock: Clock, tracer: Tracer | None) -> SessionTier:
    if settings.redis_url is None:
        return NoSessionTier()
    return RedisSessionTier(
        client=connect(settings.redis_url, password=settings.redis_password(), max_connections=MAX_CONNECTIONS),
        sealer=PayloadSealer(keys=settings.redis_keys()),
        timeout_seconds=settings.redis_timeout_seconds,
        clock=clock,
        tracer=tracer,
    )


def _attempt_counters(settings: Settings, clock: Clock, tracer: Tracer | None, *, serving: bool) -> AttemptCounters:
    local = LocalCounters(clock=clock)
    if settings.redis_url is None or not serving:
        return local
    client = connect(settings.redis_url, password=settings.redis_password(), max_connections=MAX_CONNECTIONS)
    return SharedCounters(client=client, local=local, clock=clock, tracer=tracer)
