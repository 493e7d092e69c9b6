"""A service whose methods, one of each kind of streaming, do what the request's text says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from handfast.server.chassis import errors
from handfast.server.chassis.cancellation import sleep
from handfast.server.chassis.data.database import Database
from handfast.server.chassis.server import Service

from .made_up import service_of_texts

NAME = "handfast.test.Scripted"
METHODS = {
    "unary": ("Unary", False, False),
    "server_stream": ("Spread", False, True),
    "client_stream": ("Gather", True, False),
    "bidi_stream": ("Both", True, True),
}
LARGE = 5 * 1024 * 1024
FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n WHERE i < 0"


class Scripted:
    """`entered` is released when a handler begins to wait; `gate` lets those go that wait for nothing else."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()

    def act(self, text: str) -> Any:
        match text:
            case "refuse":
                raise errors.InvalidMetadata("no", key="k")
            case "crash":
                raise ZeroDivisionError("private")
            case "unserializable":
                return object()
            case "large":
                return StringValue(value="x" * LARGE)
            case "wait":
                self.entered.release()
                sleep(30)
            case "query":
                self.entered.release()
                with self._database.read() as connection:
                    connection.exec_driver_sql(FOREVER).one()
            case "write":
                self.entered.release()
                self._database.write(lambda connection: connection.exec_driver_sql(FOREVER).one())
            case "block":
                self.entered.release()
                self.gate.wait(30)
        return StringValue(value=text)

    def Unary(self, request: StringValue, _context: grpc.ServicerContext) -> Any:
        return self.act(request.value)

    def Spread(self, request: StringValue, _context: grpc.ServicerContext) -> Iterator[Any]:
        yield StringValue(value="first")
        yield self.act(request.value)

    def Gather(self, requests: Iterator[StringValue], _context: grpc.ServicerContext) -> Any:
        return [self.act(request.value) for request in requests][-1]

    def Both(self, requests: Iterator[StringValue], _context: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            yield self.act(request.value)


def scripted_service(servicer: Scripted) -> Service:
    return service_of_texts(NAME, {name: (requests, replies) for name, requests, replies in METHODS.values()}, servicer)


def labels_of(kind: str) -> dict[str, str]:
    return {"grpc_type": kind, "grpc_service": NAME, "grpc_method": METHODS[kind][0]}
