"""Identity: trust tokens, signing keys, the audit log, outgoing mail, and what sessions and users need for them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NOTHING = b"\0" * 32


def upgrade() -> None:
    op.add_column("users", sa.Column("token_epoch", sa.BigInteger, nullable=False, server_default="1"))
    op.add_column("users", sa.Column("privilege_revision", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("sessions", sa.Column("id_revision", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "trust_tokens",
        sa.Column("jti", sa.String(32), nullable=False),
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("audience", sa.String(128), nullable=False),
        sa.Column("user_id", sa.String(32)),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("canonical_email", sa.String(254), nullable=False),
        sa.Column("token_epoch", sa.BigInteger, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("bridge_id", sa.String(32), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
        sa.Column("spent_us", sa.BigInteger),
        sa.Column("void_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("jti", name="pk_trust_tokens"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_trust_tokens_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_trust_tokens_user_id_purpose", "trust_tokens", ["user_id", "purpose"])
    op.create_index("ix_trust_tokens_canonical_email_purpose", "trust_tokens", ["canonical_email", "purpose"])
    op.create_index("ix_trust_tokens_expires_us", "trust_tokens", ["expires_us"])
    op.create_index("ix_trust_tokens_bridge_id", "trust_tokens", ["bridge_id"])
    op.create_table(
        "signing_keys",
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("public_key", sa.LargeBinary(32), nullable=False),
        sa.Column("wrapped_key", sa.String(512), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("activated_us", sa.BigInteger),
        sa.Column("retired_us", sa.BigInteger),
        sa.Column("expires_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("key_id", name="pk_signing_keys"),
    )
    audit_head = op.create_table(
        "audit_head",
        sa.Column("only_row", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("pruned_through", sa.BigInteger, nullable=False),
        sa.Column("pruned_hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("only_row", name="pk_audit_head"),
    )
    op.bulk_insert(
        audit_head,
        [{"only_row": 1, "sequence": 0, "hash": _NOTHING, "pruned_through": 0, "pruned_hash": _NOTHING}],
    )
    op.create_table(
        "audit_events",
        sa.Column("sequence", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("time_us", sa.BigInteger, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("client_ip", sa.String(45), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_events"),
    )
    op.create_index("ix_audit_events_user_id_sequence", "audit_events", ["user_id", "sequence"])
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("template", sa.String(64), nullable=False),
        sa.Column("recipient", sa.String(254), nullable=False),
        sa.Column("locale", sa.String(35), nullable=False),
        sa.Column("jti", sa.String(32)),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("due_us", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("done_us", sa.BigInteger),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_due_us", "outbox", ["due_us"])
    op.create_index("ix_outbox_done_us", "outbox", ["done_us"])


def downgrade() -> None:
    for table in ("outbox", "audit_events", "audit_head", "signing_keys", "trust_tokens"):
        op.drop_table(table)
    op.drop_column("sessions", "id_revision")
    op.drop_column("users", "privilege_revision")
    op.drop_column("users", "token_epoch")
