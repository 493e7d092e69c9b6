"""Alembic's entry: brings the users database to its newest revision."""

from handfast.server.chassis.data import migrations
from handfast.server.users.tables import metadata

migrations.run(metadata)
