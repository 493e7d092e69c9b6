"""The users server says that it is ready while its database answers, with the schema that the code expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from handfast.server.chassis.data import migrations
from handfast.server.chassis.data.database import Database, DatabaseError
from handfast.server.suite import SuiteSettings
from handfast.server.users.server import MIGRATIONS, build
from tests.databases.postgresql import postgresql
from tests.eventually import eventually


def test_a_database_that_is_away_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "postgresql"
    with postgresql(folder) as database:
        url = database.create_databases()["HANDFAST_USERS_DATABASE_URL"]
        server = build(SuiteSettings(name="users", listen="127.0.0.1:0", database_url=url, grace=0.1))
        server.start()
        with grpc.insecure_channel(server.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)

            def says(status: int) -> bool:
                return bool(eventually(lambda: health.Check(HealthCheckRequest()).status == status))

            assert says(HealthCheckResponse.SERVING)
            database.stop()
            assert says(HealthCheckResponse.NOT_SERVING)
            database.start()
            assert says(HealthCheckResponse.SERVING)
        server.stop()


def test_a_schema_that_is_behind_is_not_ready_and_one_that_is_ahead_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{tmp_path}/users.sqlite3")
    migrations.upgrade(database, MIGRATIONS)
    check = migrations.schema_check(database, MIGRATIONS)
    check()
    version = sa.table("alembic_version", sa.column("version_num"))
    database.write(lambda connection: connection.execute(sa.update(version).values(version_num="of-a-newer-release")))
    check()
    monkeypatch.setattr("alembic.script.ScriptDirectory.get_current_head", lambda _: "9999")
    database.write(lambda connection: connection.execute(sa.update(version).values(version_num="0001")))
    with pytest.raises(DatabaseError, match="is 0001, and 9999 is needed"):
        migrations.schema_check(database, MIGRATIONS)()
    database.close()
