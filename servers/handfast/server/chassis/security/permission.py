"""What a contract says of who may call a method, read once for each method."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from handfast.chassis.v1 import options_pb2
from handfast.server.chassis.logs.redaction import is_marked
from handfast.server.process.settings import SCOPE

SELF = "self"
"""The scope of a caller who may ask for what is its own."""
SERVER = "{server}"
"""What stands for the name of the server in a scope of a contract."""

_OPTIONAL, _NAMES = "?", "/"
_SINGLE = (str, int, Message)  # what else a path leads to is repeated
_IDS = {FieldDescriptor.TYPE_STRING}
_INTEGERS = {
    getattr(FieldDescriptor, f"TYPE_{kind}")
    for kind in ("INT32", "INT64", "UINT32", "UINT64", "SINT32", "SINT64", "FIXED32", "FIXED64", "SFIXED32", "SFIXED64")
}


@dataclass(frozen=True, slots=True)
class FieldPath:
    """Where values stand in a message: `user.user_id`, or with any number of them `decisions.transaction_id`. Where
    they are names of resources, such as `users/ada`, `own_kinds` are the kinds that belong to subjects.
    """

    names: tuple[str, ...]
    may_be_empty: bool = False
    own_kinds: Set[str] | None = None

    def values(self, message: Any) -> list[Any]:
        """All values there, those of fields that are not set included: a list of none where a list is empty."""
        found = [message]
        for name in self.names:
            found = [value for parent in found for value in _each(getattr(parent, name))]
        return found

    def own(self, message: Any, subject: str) -> list[bool]:
        """Of each value there, whether it is the subject's own."""
        values = [value for value in self.values(message) if value or not self.may_be_empty]
        if self.own_kinds is None:
            return [value == subject for value in values]
        names = [value.partition("/") for value in values]
        return [kind in self.own_kinds and key == subject for kind, _, key in names]


@dataclass(frozen=True, slots=True, eq=False)
class Permission:
    """Who may call a method.

    scopes              a caller needs all of these; none where everybody may call it
    own                 where all values here are the caller's own, the scope `self` of its token does as well
    fields              what single fields need beside that, where they have values
    request_resources   where the id of the resource stands in a request, for the log
    reply_resources     … and where in a reply
    """

    scopes: frozenset[str]
    own: tuple[FieldPath, ...] = ()
    fields: tuple[tuple[FieldPath, frozenset[str]], ...] = ()
    request_resources: tuple[FieldPath, ...] = ()
    reply_resources: tuple[FieldPath, ...] = ()

    @classmethod
    def of(cls, descriptor: MethodDescriptor, server: str, own_kinds: Set[str] = frozenset()) -> Permission | None:
        """As its contract declares it, on the server of that name, whose `own_kinds` of resources belong to subjects;
        None where it declares none. Raises ValueError, with the method's name, where it declares what cannot be."""
        declared = descriptor.GetOptions().Extensions[options_pb2.permission]
        request, reply = descriptor.input_type, descriptor.output_type
        try:
            if not declared.scopes:
                if declared.ByteSize():
                    raise ValueError("names no scope")
                return None
            scopes = _scopes(declared.scopes, server)
            own = tuple(_path(text, request, _IDS, "self", own_kinds) for text in declared.self)
            fields = tuple(
                (_path(each.field, request, _IDS, "fields", own_kinds), _scopes(each.scopes, server))
                for each in declared.fields
            )
            for text in declared.resource:
                if not any(_leads(text, message) for message in (request, reply)):
                    raise ValueError(f"resource: neither the request nor the reply has {text!r}")
            in_request, in_reply = (
                tuple(
                    _path(text, message, _IDS | _INTEGERS, "resource")
                    for text in declared.resource
                    if _leads(text, message)
                )
                for message in (request, reply)
            )
        except ValueError as error:
            raise ValueError(f"{descriptor.full_name}: its permission {error}") from None
        return cls(scopes, own, fields, in_request, in_reply)

    @property
    def looks_at_requests(self) -> bool:
        """Whether it can depend on the request who may call the method."""
        return bool(self.own or self.fields)

    def lacking(self, request: Message | None, scopes: Set[str], subject: str) -> frozenset[str]:
        """The scopes that a call with this request needs and a caller with `scopes` lacks one of; none where it may be
        made. What is the subject's own is for those whose scopes have `self`."""
        own = subject if SELF in scopes else ""
        if not self.scopes <= scopes:
            are_own = [each for path in self.own for each in path.own(request, own)] if own and request else []
            if not (are_own and all(are_own)):
                return self.scopes
        for path, needed in self.fields if request is not None else ():
            if not needed <= scopes and path.values(request) and not (own and all(path.own(request, own))):
                return needed
        return frozenset()

    def resource(self, request: Message | None, reply: Message | None = None) -> str:
        """The ids that a call is about, with commas between them; empty where it names none."""
        for message, paths in ((request, self.request_resources), (reply, self.reply_resources)):
            for path in paths if message is not None else ():
                if values := [str(value) for value in path.values(message) if value]:
                    return ",".join(values)
        return ""


EVERYBODY = Permission(frozenset())
"""That of a method which asks nobody who they are."""


def _leads(text: str, message: Descriptor) -> bool:
    """Whether the first name of a path is a field of the message."""
    return text.split(".")[0] in message.fields_by_name


def _scopes(declared: Iterable[str], server: str) -> frozenset[str]:
    """Raises ValueError where one cannot be."""
    for scope in declared:
        if not SCOPE.fullmatch(scope):
            raise ValueError(f"has the scope {scope!r}, which no token can have")
    return frozenset(scope.replace(SERVER, server) for scope in declared)


def _path(text: str, message: Descriptor, types: set[int], what: str, own_kinds: Set[str] = frozenset()) -> FieldPath:
    """Raises ValueError where the path leads to no field of one of the types."""
    names = text.removesuffix(_OPTIONAL).removesuffix(_NAMES).split(".")
    field: FieldDescriptor | None = None
    inside: Descriptor | None = message
    for name in names:
        if inside is None or (field := inside.fields_by_name.get(name)) is None:
            raise ValueError(f"{what}: {message.name} has no field {text!r}")
        inside = field.message_type if not _is_map(field) else None
    assert field is not None
    if field.type not in types:
        raise ValueError(f"{what}: {text!r} is no id")
    if is_marked(field):
        raise ValueError(f"{what}: {text!r} is personal data")
    return FieldPath(tuple(names), text.endswith(_OPTIONAL), own_kinds if text.endswith(_NAMES) else None)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _each(value: Any) -> Iterable[Any]:
    return (value,) if isinstance(value, _SINGLE) else value
