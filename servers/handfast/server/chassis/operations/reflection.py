"""Reflection, from which tools such as grpcurl learn the contracts of a server
(https://github.com/grpc/grpc/blob/master/doc/server-reflection.md).

grpcio brings v1alpha only. v1 has the same messages under other names, so one servicer serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2  # noqa: F401 (puts the details of errors where reflection finds them)
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import SERVICE_NAME, ReflectionServicer

_V1 = "grpc.reflection.v1.ServerReflection"


def v1_descriptor() -> ServiceDescriptor:
    """The contract of v1, made from that of v1alpha, so that v1 can be asked about itself."""
    pool = descriptor_pool.Default()
    try:
        return pool.FindServiceByName(_V1)
    except KeyError:
        alpha = FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        renamed = text_format.MessageToString(alpha).replace("v1alpha", "v1")
        pool.Add(text_format.Parse(renamed, FileDescriptorProto()))
        return pool.FindServiceByName(_V1)


def servicer(services: Sequence[str]) -> ReflectionServicer:
    return ReflectionServicer((*services, _V1, SERVICE_NAME), pool=_Pool())


class _Pool:
    """The contracts of this process, by every name that the contract of reflection allows. A tool that calls one method
    asks for the file of that method, which protobuf's own pool does not find.
    """

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()  # whose types leave out half of what it has

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def add_v1_to_server(servicer: Any, server: grpc.Server) -> None:
    """What a generated `add_ServerReflectionServicer_to_server` would do."""
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_V1, handlers),))
