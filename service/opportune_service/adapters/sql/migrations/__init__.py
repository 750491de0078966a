"""How the tables came to be what they are: revisions for Alembic, used through `adapters/sql/migrate.py`.

A revision is never changed once it is released. One that only adds can be applied while processes of the
release before go on; what they use is taken away one release later.
"""
