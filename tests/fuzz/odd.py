"""Scalars that have broken programs before."""

from __future__ import annotations

import base64
import math

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

_TEXTS = (
    "",
    " ",
    "\t\r\n",
    "\u00a0\u2003\u3000",  # blanks that are no ASCII
    "\x07\x1b[31m\x7f\x85",
    "\u202eevil\u202c",  # right to left
    "مرحبا",
    "e\u0301\u0301\u0301",  # combining
    "Z̸a̷l̶g̴o̵",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u200b\ufeff\ufffd\uffff\U0010ffff",
    "\u2028\u2029",
    "\u0390\u1e9e\u00df\u0149\u0130\u0131\u017f\u212a\ufb03",  # another length, or another letter, in another case
    "../../../etc/passwd",
    "C:\\con\\nul",
    "'; DROP TABLE users; --",
    '" OR 1=1 --',
    "%00%s%n{0}${x}",
    "null",
    "NaN",
    "-0",
    "1e999",
    "\uff11\u0662\u096b",  # digits that are no ASCII
    "__proto__",
    "<script>alert(1)</script>",
    "xn--",
    "a@b",
    '"a b"@example.com',
    "a@[127.0.0.1]",
    "ada@ex\u00adample.com",
    "ada@münchen.example",
    "ада@example.com",
    "*",
    "values.",
    "labels..",
    "labels.Ä",
    "user_id",
    base64.urlsafe_b64encode(b"users\n\0").decode(),
    base64.urlsafe_b64encode(b"definitions\n\xff").decode(),
    base64.urlsafe_b64encode(b"transactions/0\nzzz").decode(),
    base64.urlsafe_b64encode(b"branches\n").decode(),
    "00000000-0000-0000-0000-000000000000",
    "00000000-0000-7000-8000-000000000000",  # a transaction of 1970
    "ffffffff-ffff-7fff-bfff-ffffffffffff",  # a transaction of the year 10889
    "{123e4567-e89b-12d3-a456-426614174000}",
    "123E4567-E89B-12D3-A456-426614174000",
)
_LENGTHS = (2, 63, 64, 65, 100, 200, 254, 255, 1000, 4096, 1 << 20)
_repeated = st.builds(str.__mul__, st.sampled_from("aé\u202e\u0301\0😀 -."), st.sampled_from(_LENGTHS))

short_texts = st.sampled_from(("\0", "a\0b")) | st.sampled_from(_TEXTS) | st.text(max_size=20)
texts = short_texts | _repeated
finite_floats = st.sampled_from((-0.0, 5e-324, 1.7976931348623157e308, 2.0**53 + 2)) | st.floats(
    allow_nan=False, allow_infinity=False
)
floats = (
    st.sampled_from((-0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 2.0**53 + 2)) | st.floats()
)
lengths = st.sampled_from((0, 1, 2, 33, 101, 257, 1001))
"""Of repeated fields: around the limits that contracts set."""


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    marks = [number for number in (least, -1, 0, 1, 999, 1000, 1001, 253402300800, most) if least <= number <= most]
    return st.sampled_from(marks) | st.integers(least, most)


def scalars(field: FieldDescriptor) -> st.SearchStrategy[object]:
    """Any value that a scalar field can have."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return st.binary(max_size=40) if field.type == FieldDescriptor.TYPE_BYTES else texts
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_INT32:
            return integers(32, signed=True)
        case FieldDescriptor.CPPTYPE_INT64:
            return integers(64, signed=True)
        case FieldDescriptor.CPPTYPE_UINT32:
            return integers(32, signed=False)
        case FieldDescriptor.CPPTYPE_UINT64:
            return integers(64, signed=False)
        case FieldDescriptor.CPPTYPE_ENUM:
            assert field.enum_type is not None
            known = sorted(field.enum_type.values_by_number)
            return st.sampled_from(known) | st.sampled_from((-1, 99, 2**31 - 1, -(2**31)))
        case _:
            return floats
