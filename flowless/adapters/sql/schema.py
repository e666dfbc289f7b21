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
)

bridges: Final = sa.Table(
    "bridges",
    metadata,
    sa.Column("id", _String(32), primary_key=True),
    sa.Column("name", _String(64), nullable=False, unique=True),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("revoked_us", sa.BigInteger),
)

bridge_secrets: Final = sa.Table(
    "bridge_secrets",
    metadata,
    sa.Column("digest", sa.LargeBinary(32), primary_key=True),
    sa.Column("bridge_id", sa.ForeignKey("bridges.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("expires_us", sa.BigInteger),
)
