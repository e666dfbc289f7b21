"""Replicas and the revision up to which they are asked to acknowledge the log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("log_head", sa.Column("barrier_revision", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("doubted", sa.Boolean(create_constraint=False), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("longest_staleness_us", sa.BigInteger, nullable=False),
        sa.Column("watching", sa.Integer, nullable=False),
        sa.Column("watchers", sa.Text, nullable=False),
        sa.Column("acknowledged", sa.BigInteger, nullable=False),
        sa.Column("applied", sa.Integer, nullable=False),
        sa.Column("expired", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_replicas"),
    )


def downgrade() -> None:
    op.drop_table("replicas")
    op.drop_column("log_head", "barrier_revision")
