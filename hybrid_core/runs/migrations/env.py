"""Alembic runs this; hybrid_core/runs/schema.py hands over its connection and holds the
transaction."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
