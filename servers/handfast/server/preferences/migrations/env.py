"""Alembic's entry: brings the preferences database to its newest revision."""

from handfast.server.chassis.data import migrations
from handfast.server.preferences.tables import metadata

migrations.run(metadata)
