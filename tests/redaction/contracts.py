"""All messages and methods of all contracts, and which of their fields carry personal data."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor

from handfast.server.chassis.logs.redaction import is_marked
from tests.project.commands import ROOT

GENERATED = ROOT / "generated"


def _files() -> Iterator[FileDescriptor]:
    for file in sorted(GENERATED.rglob("*_pb2.py")):
        name = ".".join(file.relative_to(GENERATED).with_suffix("").parts)
        yield importlib.import_module(name).DESCRIPTOR


def _with_nested(messages: Iterator[Descriptor]) -> Iterator[Descriptor]:
    for message in messages:
        if not is_entry(message):
            yield message
            yield from _with_nested(iter(message.nested_types))


def is_entry(message: Descriptor) -> bool:
    """Whether it is only the shape of a map's entries."""
    return message.GetOptions().map_entry


def is_ours(message: Descriptor | None) -> bool:
    return message is not None and message.file in FILES and not is_entry(message)


FILES = tuple(_files())
MESSAGES = tuple(message for file in FILES for message in _with_nested(iter(file.message_types_by_name.values())))
METHODS: tuple[MethodDescriptor, ...] = tuple(
    method for file in FILES for service in file.services_by_name.values() for method in service.methods
)


def leaves(message: Descriptor) -> Iterator[FieldDescriptor]:
    """The fields that hold a value, and not a message of the contracts, which has fields of its own."""
    return (field for field in message.fields if not is_ours(field.message_type))


def marked_fields(message: Descriptor) -> Iterator[FieldDescriptor]:
    """Every marked field that a message can carry, at any depth."""
    for field in message.fields:
        if is_marked(field):
            yield field
        elif is_ours(field.message_type):
            assert field.message_type is not None
            yield from marked_fields(field.message_type)
