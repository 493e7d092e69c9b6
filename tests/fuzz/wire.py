"""Requests as bytes that no client library would send: `Damage` is done to a valid message, and says what was done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as attribute

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.struct_pb2 import Value
from hypothesis import strategies as st

from tests.fuzz.messages import is_map, new, submessages

LENGTH_DELIMITED = 2
_VALUE_LIST, _LIST_VALUES = 6, 1  # field numbers in google.protobuf.Value and ListValue


@dataclass(frozen=True)
class Damage:
    name: str
    do: Callable[[bytes], bytes] = attribute(repr=False)


NONE = Damage("none", lambda valid: valid)


def damages(descriptor: Descriptor) -> st.SearchStrategy[Damage]:
    """Mostly none."""
    number = st.integers(0, 2**16)
    strings: list[FieldDescriptor | None] = [
        field for field in descriptor.fields if field.type == FieldDescriptor.TYPE_STRING
    ]
    some = [
        st.binary(max_size=60).map(lambda junk: Damage(f"is {junk!r}", lambda _valid: junk)),
        number.map(lambda at: Damage(f"ends at {at}", lambda valid: valid[: at % (len(valid) + 1)])),
        st.builds(_flipped, number, st.integers(1, 255)),
        st.builds(_inserted, number, st.binary(min_size=1, max_size=8)),
        st.builds(
            _unknown_field, st.just(descriptor), st.integers(0, 5), st.integers(1000, 2**29 - 1), st.binary(max_size=30)
        ),
        st.sampled_from(strings or [None]).map(_surrogate),
        st.sampled_from((1, 20, 40, 60, 99, 100, 101, 5000)).map(lambda depth: _deep(descriptor, depth)),
        st.just(Damage("5 MiB more", lambda valid: valid + delimited(2000, bytes(5 << 20)))),  # than is taken
        st.just(Damage("sent twice", lambda valid: valid * 2)),  # fields of the second win, messages merge
    ]
    return st.sampled_from((*[True] * 5, False)).flatmap(lambda whole: st.just(NONE) if whole else st.one_of(some))


def _flipped(at: int, bits: int) -> Damage:
    def do(valid: bytes) -> bytes:
        if not valid:
            return valid
        place = at % len(valid)
        return valid[:place] + bytes([valid[place] ^ bits]) + valid[place + 1 :]

    return Damage(f"byte {at} ^ {bits}", do)


def _inserted(at: int, junk: bytes) -> Damage:
    def do(valid: bytes) -> bytes:
        place = at % (len(valid) + 1)
        return valid[:place] + junk + valid[place:]

    return Damage(f"{junk!r} at {at}", do)


def _unknown_field(descriptor: Descriptor, at: int, number: int, value: bytes) -> Damage:
    def do(valid: bytes) -> bytes:
        message = new(descriptor)
        message.ParseFromString(valid)
        held = list(submessages(message))
        held[-1 - at % len(held)].MergeFromString(delimited(number, value))
        return message.SerializeToString()

    return Damage(f"field {number} of {value!r} in submessage {at} from the last", do)


def _surrogate(field: FieldDescriptor | None) -> Damage:
    if field is None:
        return NONE
    number = field.number
    return Damage(f"{field.name} no UTF-8", lambda valid: valid + delimited(number, b"a\xed\xa0\x80\xff"))


def _deep(descriptor: Descriptor, depth: int) -> Damage:
    """Appends a `google.protobuf.Value` of lists within lists, where the message has one anywhere."""
    path = _path_to_value(descriptor)
    if path is None:
        return NONE
    value = b""
    for _ in range(depth):
        value = delimited(_VALUE_LIST, delimited(_LIST_VALUES, value))
    for number, key in reversed(path):
        value = delimited(number, key + value)
    return Damage(f"lists {depth} deep", lambda valid: valid + value)


def _path_to_value(descriptor: Descriptor) -> list[tuple[int, bytes]] | None:
    """Field numbers that lead to a Value, each with what stands before the next within it."""
    waiting = deque([(descriptor, list[tuple[int, bytes]]())])
    seen = {descriptor.full_name}
    while waiting:
        at, path = waiting.popleft()
        for field in at.fields:
            inner = field.message_type
            if inner is None or inner.full_name in seen:
                continue
            seen.add(inner.full_name)
            step = [*path, (field.number, b"")]
            if is_map(field):
                theme = delimited(1, b"theme")
                inner = inner.fields_by_name["value"].message_type
                if inner is None:
                    continue
                step = [*path, (field.number, theme), (2, b"")]
            if inner.full_name == Value.DESCRIPTOR.full_name:
                return step
            waiting.append((inner, step))
    return None


def delimited(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(value)) + value


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
