"""The first schema."""

import sqlalchemy as sa
from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("canonical_email", sa.String(254), nullable=False),
        sa.Column("email_verified", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("canonical_user_name", sa.String(64)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.String(512), nullable=False),
        sa.Column("session_epoch", sa.BigInteger, nullable=False),
        sa.Column("user_name", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("last_name", sa.String(128), nullable=False),
        sa.Column("phone", sa.String(32), nullable=False),
        sa.Column("picture_url", sa.String(2048), nullable=False),
        sa.Column("user_type", sa.String(64), nullable=False),
        sa.Column("locale", sa.String(35), nullable=False),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("canonical_email", name="uq_users_canonical_email"),
        sa.UniqueConstraint("canonical_user_name", name="uq_users_canonical_user_name"),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("handle", sa.String(32), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("bound_ip", sa.LargeBinary(16), nullable=False),
        sa.Column("binding_key", sa.LargeBinary(32), nullable=False),
        sa.Column("bound_device", sa.LargeBinary(32), nullable=False),
        sa.Column("bound_agent", sa.LargeBinary(32), nullable=False),
        sa.Column("methods", sa.Text, nullable=False),
        sa.Column("device_name", sa.String(128), nullable=False),
        sa.Column("bridge_id", sa.String(32), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("authenticated_us", sa.BigInteger, nullable=False),
        sa.Column("last_seen_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
        sa.Column("revoked_us", sa.BigInteger),
        sa.Column("used_by", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_sessions"),
        sa.UniqueConstraint("handle", name="uq_sessions_handle"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sessions_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_sessions_used_by_last_seen_us", "sessions", ["used_by", "last_seen_us"])
    op.create_index("ix_sessions_user_id_created_us", "sessions", ["user_id", "created_us"])
    op.create_index("ix_sessions_expires_us", "sessions", ["expires_us"])
    log_head = op.create_table(
        "log_head",
        sa.Column("only_row", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("log_id", sa.String(32), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("compacted_through", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("only_row", name="pk_log_head"),
    )
    op.create_table(
        "revocations",
        sa.Column("revision", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("revision", name="pk_revocations"),
    )
    op.create_table(
        "bridges",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("revoked_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_bridges"),
        sa.UniqueConstraint("name", name="uq_bridges_name"),
    )
    op.create_table(
        "bridge_secrets",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("bridge_id", sa.String(32), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("digest", name="pk_bridge_secrets"),
        sa.ForeignKeyConstraint(
            ["bridge_id"], ["bridges.id"], name="fk_bridge_secrets_bridge_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_bridge_secrets_bridge_id", "bridge_secrets", ["bridge_id"])
    op.bulk_insert(
        log_head,
        [
            {
                "only_row": 1,
                "log_id": context.config.attributes["log_id"],
                "revision": 0,
                "compacted_through": 0,
            }
        ],
    )


def downgrade() -> None:
    msg = "going back before the first schema would delete everything; restore a backup instead"
    raise NotImplementedError(msg)
