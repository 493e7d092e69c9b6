"""Contracts that are made up in a test: methods of any kind of streaming that take and give texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.wrappers_pb2 import StringValue

from handfast.chassis.v1.options_pb2 import Permission
from handfast.chassis.v1.options_pb2 import permission as permission_option
from handfast.server.chassis.server import Service

Streaming = tuple[bool, bool]
"""Whether requests and replies stream."""
FACTORIES: dict[Streaming, Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def service_of_texts(
    name: str, methods: Mapping[str, Streaming], servicer: object, permission: Permission | None = None
) -> Service:
    """`name` is in full, such as `handfast.test.Streams`. The servicer may leave methods out. Each method
    declares the permission."""

    def add(servicer: Any, server: grpc.Server) -> None:
        handlers = {
            method: FACTORIES[streaming](
                getattr(servicer, method, _left_out), StringValue.FromString, StringValue.SerializeToString
            )
            for method, streaming in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    return Service(_descriptor(name, methods, permission), add, servicer, "handfast.test")


def _left_out(_request: Any, context: grpc.ServicerContext) -> Any:
    """As generated code does for a method that a servicer does not have."""
    context.set_code(grpc.StatusCode.UNIMPLEMENTED)
    context.set_details("Method not implemented!")
    raise NotImplementedError("Method not implemented!")


def _descriptor(name: str, methods: Mapping[str, Streaming], permission: Permission | None) -> ServiceDescriptor:
    pool = descriptor_pool.Default()
    try:
        return pool.FindServiceByName(name)
    except KeyError:
        package, _, service = name.rpartition(".")
        file = descriptor_pb2.FileDescriptorProto(
            name=f"{name}.proto", package=package, dependency=["google/protobuf/wrappers.proto"], syntax="proto3"
        )
        contract = file.service.add(name=service)
        text = f".{StringValue.DESCRIPTOR.full_name}"
        for method, (requests, replies) in methods.items():
            declared = contract.method.add(
                name=method, input_type=text, output_type=text, client_streaming=requests, server_streaming=replies
            )
            if permission is not None:
                declared.options.Extensions[permission_option].CopyFrom(permission)
        pool.Add(file)
        return pool.FindServiceByName(name)
