"""The users server says that it is ready while its database answers."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from handfast.server.suite import SuiteSettings
from handfast.server.users.server import build
from tests.databases.postgresql import postgresql
from tests.eventually import eventually


def test_a_database_that_is_away_and_comes_back() -> None:
    with postgresql() as database:
        url = database.create_databases()["HANDFAST_USERS_DATABASE_URL"]
        server = build(SuiteSettings(name="users", listen="127.0.0.1:0", database_url=url, migrate=True, grace=0.1))
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
