"""Leases instead of process start times, run numbers that are never reused, and one running job per
device."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

RUNNING = sa.text("status = 'running'")


def upgrade() -> None:
    """Workers of the first version hold no lease, so their runs are marked as failed."""
    op.execute(
        "UPDATE runs SET status = 'failed', ended_at = CURRENT_TIMESTAMP,"
        " error = 'it was running while the program was replaced'"
        " WHERE status = 'running'"
    )
    with op.batch_alter_table(
        "runs", recreate="auto", table_kwargs={"sqlite_autoincrement": True}
    ) as table:
        table.add_column(sa.Column("lease", sa.String))
        table.add_column(sa.Column("boot", sa.String))
        table.add_column(sa.Column("heard", sa.Float))
        table.add_column(sa.Column("pid_space", sa.String))
        table.drop_column("pid_started")
    # Every process that opens a SQLite file is on one machine; a server's database is shared by
    # several, each with its own devices.
    dialect = op.get_bind().dialect.name
    columns = {"sqlite": ["device"], "postgresql": ["host", "device"]}.get(dialect)
    if columns:
        op.create_index(
            "one_job_per_device",
            "runs",
            columns,
            unique=True,
            sqlite_where=RUNNING,
            postgresql_where=RUNNING,
        )
