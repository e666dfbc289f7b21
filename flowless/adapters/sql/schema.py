"""The tables. `migrations/` makes them; a test holds the two together.

Times are microseconds since the epoch as 64-bit integers: exact, ordered and alike on every database. Lists and
attributes are JSON text. Session ids and bridge secrets occur only as SHA-256.
"""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

metadata: Final = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


class _String(sa.TypeDecorator[str]):
    """Text that may be asked for with any text.

    PostgreSQL stores no NUL and refuses a statement that holds one. Nothing that is stored holds one either, since
    the services refuse it, so a look-up with one must find nobody: it is made with a character that no identifier
    and no canonical form can hold.
    """

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Make the text one that every database takes."""
        return value if value is None else value.replace("\0", "\uffff")


users: Final = sa.Table(
    "users",
    metadata,
    sa.Column("id", _String(32), primary_key=True),
    sa.Column("email", _String(254), nullable=False),
    sa.Column("canonical_email", _String(254), nullable=False, unique=True),
    sa.Column("email_verified", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("canonical_user_name", _String(64), unique=True),
    sa.Column("status", _String(16), nullable=False),
    sa.Column("password_hash", _String(512), nullable=False),
    # A session is live only while its epoch equals its user's.
    sa.Column("session_epoch", sa.BigInteger, nullable=False),
    # A trust token of a user's is good only while its epoch equals its user's: it moves with password and address.
    sa.Column("token_epoch", sa.BigInteger, nullable=False, server_default="1"),
    # Where in the log the roles changed last: session ids that were made before are due to be rotated.
    sa.Column("privilege_revision", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("user_name", _String(64), nullable=False),
    sa.Column("name", _String(128), nullable=False),
    sa.Column("last_name", _String(128), nullable=False),
    sa.Column("phone", _String(32), nullable=False),
    sa.Column("picture_url", _String(2048), nullable=False),
    sa.Column("user_type", _String(64), nullable=False),
    sa.Column("locale", _String(35), nullable=False),
    sa.Column("roles", sa.Text, nullable=False),
    sa.Column("attributes", sa.Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("updated_us", sa.BigInteger, nullable=False),
)

sessions: Final = sa.Table(
    "sessions",
    metadata,
    sa.Column("digest", sa.LargeBinary(32), primary_key=True),
    sa.Column("handle", _String(32), nullable=False, unique=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("bound_ip", sa.LargeBinary(16), nullable=False),
    sa.Column("binding_key", sa.LargeBinary(32), nullable=False),
    sa.Column("bound_device", sa.LargeBinary(32), nullable=False),
    sa.Column("bound_agent", sa.LargeBinary(32), nullable=False),
    sa.Column("methods", sa.Text, nullable=False),
    sa.Column("device_name", _String(128), nullable=False),
    sa.Column("bridge_id", _String(32), nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("authenticated_us", sa.BigInteger, nullable=False),
    sa.Column("last_seen_us", sa.BigInteger, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=False),
    sa.Column("revoked_us", sa.BigInteger),
    # The bridge that reported use last; at first the one that logged in.
    sa.Column("used_by", sa.String(32), nullable=False),
    # The log's end when the session id was made.
    sa.Column("id_revision", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_sessions_used_by_last_seen_us", "used_by", "last_seen_us"),
    sa.Index("ix_sessions_user_id_created_us", "user_id", "created_us"),
    sa.Index("ix_sessions_expires_us", "expires_us"),
)

# One row. Writers of the log update it first: its row lock, held until they commit, makes revisions
# become visible in their order on every database.
log_head: Final = sa.Table(
    "log_head",
    metadata,
    sa.Column("only_row", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("log_id", _String(32), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("compacted_through", sa.BigInteger, nullable=False),
    # Every replica is to acknowledge the log up to here: a revoke waits for it.
    sa.Column("barrier_revision", sa.BigInteger, nullable=False, server_default="0"),
)

revocations: Final = sa.Table(
    "revocations",
    metadata,
    sa.Column("revision", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("subject", _String(16), nullable=False),
    sa.Column("key", _String(64), nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)

# One row for each replica that runs or may still run.
replicas: Final = sa.Table(
    "replicas",
    metadata,
    sa.Column("id", _String(32), primary_key=True),
    sa.Column("name", _String(128), nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("doubted", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("longest_staleness_us", sa.BigInteger, nullable=False),
    sa.Column("watching", sa.Integer, nullable=False),
    sa.Column("watchers", sa.Text, nullable=False),
    sa.Column("acknowledged", sa.BigInteger, nullable=False),
    sa.Column("applied", sa.Integer, nullable=False),
    sa.Column("expired", sa.Integer, nullable=False),
    # What each of `watchers` says of itself, and when all this was written, by the database's clock. A Flowless from
    # before these columns leaves them alone.
    sa.Column("figures", sa.Text),
    sa.Column("reported_us", sa.BigInteger),
)

bridges: Final = sa.Table(
    "bridges",
    metadata,
    sa.Column("id", _String(32), primary_key=True),
    sa.Column("name", _String(64), nullable=False, unique=True),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("revoked_us", sa.BigInteger),
    # Who its callers have to be by their certificate; empty: anybody who has the secret.
    sa.Column("client_id", _String(2048), nullable=False, server_default=sa.text("''")),
    # Here as well as with its secrets: those are deleted when they have expired.
    sa.Column("last_used_us", sa.BigInteger),
)

bridge_secrets: Final = sa.Table(
    "bridge_secrets",
    metadata,
    sa.Column("digest", sa.LargeBinary(32), primary_key=True),
    sa.Column("bridge_id", sa.ForeignKey("bridges.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("expires_us", sa.BigInteger),
    sa.Column("last_used_us", sa.BigInteger),
)

# Public parts of issued tokens: the token's text is nowhere, and a jti redeems nothing without the signature.
trust_tokens: Final = sa.Table(
    "trust_tokens",
    metadata,
    sa.Column("jti", _String(32), primary_key=True),
    sa.Column("purpose", _String(64), nullable=False),
    sa.Column("audience", _String(128), nullable=False),
    # Absent: an invitation, or issued for an address that nobody has.
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE")),
    # The address that it was issued to, and its canonical form.
    sa.Column("email", _String(254), nullable=False),
    sa.Column("canonical_email", _String(254), nullable=False),
    sa.Column("token_epoch", sa.BigInteger, nullable=False),
    sa.Column("key_id", _String(64), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("bridge_id", _String(32), nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=False),
    sa.Column("spent_us", sa.BigInteger),
    # Superseded, revoked, or never good: issued for an address that nobody has.
    sa.Column("void_us", sa.BigInteger),
    sa.Index("ix_trust_tokens_user_id_purpose", "user_id", "purpose"),
    sa.Index("ix_trust_tokens_canonical_email_purpose", "canonical_email", "purpose"),
    sa.Index("ix_trust_tokens_expires_us", "expires_us"),
    sa.Index("ix_trust_tokens_bridge_id", "bridge_id"),
)

signing_keys: Final = sa.Table(
    "signing_keys",
    metadata,
    # PASERK id, `k4.pid.…`.
    sa.Column("key_id", _String(64), primary_key=True),
    sa.Column("public_key", sa.LargeBinary(32), nullable=False),
    # PASERK `k4.secret-wrap.pie.…`; empty when destroyed.
    sa.Column("wrapped_key", _String(512), nullable=False),
    sa.Column("state", _String(16), nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("activated_us", sa.BigInteger),
    sa.Column("retired_us", sa.BigInteger),
    # When a retired key stops verifying.
    sa.Column("expires_us", sa.BigInteger),
)

# One row, updated first by whoever appends: events become visible in their order. It outlives rows that went by age.
audit_head: Final = sa.Table(
    "audit_head",
    metadata,
    sa.Column("only_row", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False),
    # Rows up to here are gone by age; the hash is that of the last of them.
    sa.Column("pruned_through", sa.BigInteger, nullable=False),
    sa.Column("pruned_hash", sa.LargeBinary(32), nullable=False),
)

audit_events: Final = sa.Table(
    "audit_events",
    metadata,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time_us", sa.BigInteger, nullable=False),
    sa.Column("action", _String(64), nullable=False),
    sa.Column("outcome", _String(16), nullable=False),
    sa.Column("actor", _String(64), nullable=False),
    sa.Column("subject", _String(64), nullable=False),
    sa.Column("user_id", _String(32), nullable=False),
    sa.Column("client_ip", _String(45), nullable=False),
    sa.Column("request_id", _String(64), nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False),
    sa.Index("ix_audit_events_user_id_sequence", "user_id", "sequence"),
)

# Mail to be sent. It holds no token: the token's text is made again from its row when it is sent.
outbox: Final = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", _String(32), primary_key=True),
    # Name of the template, for example a purpose.
    sa.Column("template", _String(64), nullable=False),
    sa.Column("recipient", _String(254), nullable=False),
    sa.Column("locale", _String(35), nullable=False),
    # The token whose link the mail carries, if any.
    sa.Column("jti", _String(32)),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    # Not before; nobody sends it before that, be it a retry or because another replica is at it.
    sa.Column("due_us", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("done_us", sa.BigInteger),
    # `sent`, `failed`, `expired` or `void` when done; empty before.
    sa.Column("outcome", _String(16), nullable=False),
    sa.Index("ix_outbox_due_us", "due_us"),
    sa.Index("ix_outbox_done_us", "done_us"),
)
