"""Replicas: what their watchers say of themselves, and when a replica reported last."""

import sqlalchemy as sa
from alembic import op

revision = "0005_0004"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replicas", sa.Column("figures", sa.Text))
    op.add_column("replicas", sa.Column("reported_us", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("replicas", "reported_us")
    op.drop_column("replicas", "figures")
