"""Metadata that a gRPC client lets pass, however odd, but for who calls; `tests/http2.py` sends what none does."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.callers import ADMIN, USER
from tests.fuzz.calls import Metadata
from tests.fuzz.plausible import BEGUN, SOON, metadata_of_a_staged_call

_visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
_long = st.sampled_from(("a" * 128, "a" * 129, "b" * 1000))
_values = _visible | _long

_keys = st.sampled_from(
    (
        "x-request-id",
        "traceparent",
        "tracestate",
        "handfast-transaction-id",
        "handfast-operation",
        "handfast-transaction-deadline",
        "handfast-first-attempt",
        "handfast-follows",
        "handfast-staged",
        "handfast-caller",
        "x.y_z-0",
    )
)
_known_values = {
    "x-request-id": st.sampled_from(("", "with blanks", "{}", "a" * 128, "a" * 129)),
    "traceparent": st.sampled_from(("", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "ff-x")),
    "handfast-transaction-id": st.sampled_from(
        (BEGUN, "", "x", "00000000-0000-7000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff")
    ),
    "handfast-caller": st.sampled_from((ADMIN.digest, USER.digest, ADMIN.digest.upper(), "0" * 32, "")),
    "handfast-operation": st.sampled_from(("0", "-1", "+1", "1.0", "01", "10000", "10001", "1e3", "9" * 400)),
    "handfast-transaction-deadline": st.sampled_from(
        (
            SOON,
            "2026-01-01",
            "2026-01-01T00:00:00",
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59.999999-23:59",
            "2026-02-30T00:00:00Z",
            "1e9",
        )
    ),
    "handfast-first-attempt": st.sampled_from(
        ("", "x", BEGUN, "00000000-0000-7000-8000-000000000000", "ffffffff-ffff-7fff-bfff-ffffffffffff")
    ),
}


def _entry(key: str) -> st.SearchStrategy[tuple[str, str | bytes]]:
    return st.tuples(st.just(key), _known_values.get(key, _values) | _values)


_text_entries = _keys.flatmap(_entry)
_binary_entries = st.tuples(st.sampled_from(("a-bin", "x-request-id-bin", "grpc-trace-bin")), st.binary(max_size=100))
_odd = st.lists(_text_entries | _binary_entries, min_size=1, max_size=4).map(tuple)

metadata: st.SearchStrategy[Metadata] = st.sampled_from((*["none"] * 6, "odd", "staged", "staged and odd")).flatmap(
    lambda kind: {
        "none": st.just(()),
        "odd": _odd,
        "staged": metadata_of_a_staged_call(),
        "staged and odd": st.tuples(metadata_of_a_staged_call(), _odd).map(lambda both: both[0] + both[1]),
    }[kind]
)

paths = st.one_of(
    st.sampled_from(("/", "//", "/a", "/a/b/c", "/handfast.users.v1.UserService/", "/handfast.users.v1.UserService")),
    st.sampled_from(("/handfast.users.v1.UserService/getuser", "/users.UserService/GetUser", "/%2e%2e/%00")),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40).map(lambda text: "/" + text),
    st.sampled_from(("/" + "x" * 1500, "/" + "a/" * 750)),
)
