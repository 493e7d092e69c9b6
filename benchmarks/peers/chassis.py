"""The chassis with a method that does nothing, or, for `facade.py`, with another service."""

from __future__ import annotations

import sys
import threading

from benchmarks.peers.bare import Constant
from handfast.server.chassis import Server, ServerSettings, Service
from handfast.users.v1 import users_pb2, users_pb2_grpc


class _Announcement:
    """Prints the address once the server listens."""

    server: Server

    def start(self) -> None:
        print(self.server.address, self.server.metrics_url, flush=True)

    def stop(self, timeout: float) -> None:
        pass


def run(settings: ServerSettings, service: Service) -> None:
    """Until the process ends."""
    announcement = _Announcement()
    announcement.server = Server(settings, domain=settings.name, services=[service], background=[announcement])
    announcement.server.run(threading.Event())


def main(processor: str = "any") -> None:
    service = Service(
        users_pb2.DESCRIPTOR.services_by_name["UserService"],
        users_pb2_grpc.add_UserServiceServicer_to_server,
        Constant(users_pb2.GetUserResponse()),  # type: ignore[abstract]
        "empty",
    )
    run(ServerSettings(name="empty", listen="127.0.0.1:0", processor=processor), service)


if __name__ == "__main__":
    main(*sys.argv[1:])
