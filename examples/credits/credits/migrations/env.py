"""Alembic's entry: brings the database of credits to its newest revision."""

from credits.tables import metadata

from handfast.server.chassis import run_migrations

run_migrations(metadata)
