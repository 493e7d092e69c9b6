"""What the fields of the suite's contracts hold in requests that pass validation, so that what is behind it is reached.

What only a running suite can know, such as an etag, is a placeholder here; `world.py` fills it in as the call is made.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import ListValue, Value
from hypothesis import strategies as st

from handfast.preferences.v1 import preferences_pb2 as preferences
from tests.fuzz import odd

ETAG, TOKEN = "<etag>", "<token>"
BEGUN = "<begun>"
RECENT = ("<recent 1>", "<recent 2>", "<recent 3>")
"""Transactions that an earlier call used, the latest first."""
NEW_ID, NEW_KEY, REQUEST_ID = "<id>", "<key>", "<request id>"
SOON = "<soon>"

REPEATED = "00000000-0000-4000-8000-000000000001"
"""A request id that many calls have."""

IDS = tuple(f"fuzz-{number}" for number in range(4))
"""Users who are there."""
OTHER_IDS = tuple(f"other-{number}" for number in range(3))
"""Users who may be there."""
DEFINED: dict[str, Any] = {
    "fuzz_flag": preferences.PREFERENCE_TYPE_BOOLEAN,
    "fuzz_number": preferences.PREFERENCE_TYPE_NUMBER,
    "fuzz_text": preferences.PREFERENCE_TYPE_STRING,
    "fuzz_list": preferences.PREFERENCE_TYPE_STRING_LIST,
}


def email_of(user_id: str) -> str:
    return f"{user_id}@example.com"


def _value(kind: Any) -> st.SearchStrategy[Value]:
    match kind:
        case preferences.PREFERENCE_TYPE_BOOLEAN:
            return st.booleans().map(lambda flag: Value(bool_value=flag))
        case preferences.PREFERENCE_TYPE_NUMBER:
            return odd.finite_floats.map(lambda number: Value(number_value=number))
        case preferences.PREFERENCE_TYPE_STRING:
            return odd.short_texts.map(lambda text: Value(string_value=text))
    elements = odd.short_texts.map(lambda text: Value(string_value=text))
    return st.lists(elements, max_size=3).map(lambda values: Value(list_value=ListValue(values=values)))


@st.composite
def _definition(draw: Any) -> preferences.PreferenceDefinition:
    kind = draw(st.sampled_from(list(DEFINED.values())))
    one = preferences.PREFERENCE_TYPE_STRING if kind == preferences.PREFERENCE_TYPE_STRING_LIST else kind
    allowed = draw(st.just([]) | st.lists(_value(one), max_size=3))
    made = preferences.PreferenceDefinition(
        key=draw(st.sampled_from((NEW_KEY, NEW_KEY, NEW_KEY, "theme", "fuzz_text"))),
        type=kind,
        allowed_values=allowed,
        description=draw(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30)),
    )
    if draw(st.booleans()):
        made.default_value.CopyFrom(draw(st.sampled_from(allowed)) if allowed and one == kind else draw(_value(kind)))
    return made


_ids = st.sampled_from(IDS + OTHER_IDS[:1])
_keys = st.sampled_from(("a", "b_c", "colour"))
_words = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
_emails = st.sampled_from((*[email_of(NEW_ID)] * 5, email_of(IDS[0]), "FUZZ-1@EXAMPLE.com", "straße@example.com"))
_request_ids = st.sampled_from((*[""] * 6, REQUEST_ID, REQUEST_ID, REPEATED))
_etags = st.sampled_from(("", "", ETAG, ETAG, "0"))
_transaction_ids = st.sampled_from((BEGUN, *RECENT, *RECENT, "00000000-0000-7000-8000-000000000000"))
_masks = st.just(["*"]) | st.lists(
    st.sampled_from(("email", "display_name", "locale", "time_zone", "labels", "labels.a", "labels.b_c", "etag")),
    max_size=3,
)
_value_masks = st.just(["*"]) | st.lists(
    st.sampled_from(("values", "values.theme", "update_time", *(f"values.{key}" for key in DEFINED))), max_size=3
)
_values = st.lists(st.sampled_from(list(DEFINED.items())), max_size=3).flatmap(
    lambda chosen: st.fixed_dictionaries({key: _value(kind) for key, kind in chosen})
)
_names = (
    "handfast/users/v1/users.proto",
    "handfast.accounts.v1.AccountService",
    "google.protobuf.MethodOptions",
    "handfast.users.v1.User.email",
)
_masks_of = {
    "handfast.users.v1.UpdateUserRequest.update_mask": _masks,
    "handfast.accounts.v1.UpdateUserAndPreferencesRequest.user_update_mask": _masks,
    "handfast.preferences.v1.UpdatePreferencesRequest.update_mask": _value_masks,
    "handfast.accounts.v1.UpdateUserAndPreferencesRequest.preferences_update_mask": _value_masks,
}

_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "handfast.users.v1.User.user_id": st.sampled_from((*IDS, *OTHER_IDS, NEW_ID, "")),
    "handfast.users.v1.User.email": _emails,
    "handfast.users.v1.User.etag": _etags,
    "handfast.preferences.v1.Preferences.user_id": st.sampled_from((*IDS, "")),
    "handfast.preferences.v1.Preferences.values": _values,
    "handfast.preferences.v1.Preferences.etag": _etags,
    "handfast.preferences.v1.CreatePreferenceDefinitionRequest.definition": _definition(),
    "handfast.transactions.v1.ListTransactionsRequest.state": st.sampled_from((0, 3, 4)),
    "handfast.transactions.v1.Decision.state": st.sampled_from((3, 4, 4)),
    "handfast.transactions.v1.Read.resource": st.sampled_from([f"users/{id_}" for id_ in (*IDS, NEW_ID)]),
    "handfast.transactions.v1.Read.revision": st.sampled_from(("-", "-", "")),
    # By its id, or by a request; BatchGetTransactions takes ids only.
    "handfast.transactions.v1.GetTransactionRequest.transaction_id": st.sampled_from(("", "", BEGUN)),
    "handfast.transactions.v1.GetTransactionRequest.request_id": st.just(REPEATED),
    "handfast.transactions.v1.GetTransactionRequest.method": st.just(
        "handfast.accounts.v1.AccountService/CreateAccount"
    ),
    **{path: paths.map(lambda names: FieldMask(paths=names)) for path, paths in _masks_of.items()},
}
_NAMES: dict[str, st.SearchStrategy[Any]] = {
    "user_id": _ids,
    "user_ids": st.lists(st.sampled_from(IDS + OTHER_IDS), min_size=1, max_size=5, unique=True),
    "email": _emails,
    "display_name": _words,
    "locale": st.sampled_from(("", "pt-BR", "en", "zh-Hant-TW", "de-CH-1996", "x-private")),
    "time_zone": st.sampled_from(("", "UTC", "Europe/Lisbon")),
    "labels": st.dictionaries(_keys, _words, max_size=3),
    "etag": _etags,
    "user_etag": _etags,
    "preferences_etag": _etags,
    "request_id": _request_ids,
    "page_size": st.sampled_from((0, 1, 2, 1000, 2**31 - 1)),
    "page_token": st.sampled_from(("", TOKEN)),
    "transaction_id": _transaction_ids,
    "transaction_ids": st.lists(_transaction_ids, min_size=1, max_size=3, unique=True),
    "participant": st.sampled_from(("users", "preferences")),
    "operation_count": st.sampled_from((1, 1, 1, 2)),
    "abort_reason": st.sampled_from(("", "EMAIL_TAKEN")),
    "timeout": st.builds(Duration, seconds=st.integers(0, 300), nanos=st.integers(0, 999_999_999)),
    "service": st.sampled_from(("", "handfast.users.v1.UserService", "no.such.Service")),
    "file_by_filename": st.sampled_from(_names),
    "file_containing_symbol": st.sampled_from(_names),
    "all_extension_numbers_of_type": st.sampled_from(_names),
    "containing_type": st.sampled_from(_names),
    "extension_number": st.sampled_from((51001, 1)),
}


def plausible(field: FieldDescriptor) -> st.SearchStrategy[Any] | None:
    return _FIELDS.get(field.full_name, _NAMES.get(field.name))


def metadata_of_a_staged_call() -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    """That of any place in a transaction, mostly the right one."""
    return st.tuples(
        st.tuples(st.just("handfast-transaction-id"), st.sampled_from((BEGUN, BEGUN, *RECENT))),
        st.tuples(st.just("handfast-operation"), st.sampled_from(("1", "1", "1", "2"))),
        st.tuples(st.just("handfast-transaction-deadline"), st.just(SOON)),
    )
