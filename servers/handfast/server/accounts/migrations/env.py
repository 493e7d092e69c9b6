"""Alembic's entry: brings the transactions database to its newest revision."""

from handfast.server.accounts.tables import metadata
from handfast.server.chassis.data import migrations

migrations.run(metadata)
