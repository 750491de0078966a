"""Run by Alembic: on the connection that `migrate.py` hands over, or as a script if there is none."""

from alembic import context

_options = context.config.attributes

if context.is_offline_mode():
    context.configure(dialect_name=_options["dialect"], literal_binds=True, as_sql=True)
else:
    context.configure(connection=_options["connection"], transactional_ddl=True)

with context.begin_transaction():
    context.run_migrations()
