"""Bridges: when they and their secrets were used last, and the client identity that one may be bound to."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("bridges", sa.Column("client_id", sa.String(2048), nullable=False, server_default=sa.text("''")))
    op.add_column("bridges", sa.Column("last_used_us", sa.BigInteger))
    op.add_column("bridge_secrets", sa.Column("last_used_us", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("bridge_secrets", "last_used_us")
    op.drop_column("bridges", "last_used_us")
    op.drop_column("bridges", "client_id")
