"""docs/errors.md says what the code does."""

from __future__ import annotations

from typing import Any, get_args

import grpc

from handfast.server.chassis import errors
from handfast.server.chassis.errors import DomainError, Problem, reason_name
from handfast.server.chassis.errors.database import DATABASE_FAILURES
from handfast.server.chassis.errors.mapping import CODES
from handfast.server.transactions.coordinator import errors as coordinator_errors
from handfast.server.transactions.participant import errors as participant_errors
from handfast.transactions.v1.reasons_pb2 import Reason
from tests.project.commands import ROOT
from tests.project.readme import ERRORS, blocks, dangling_links, quoted, table


def test_each_code_is_explained() -> None:
    codes = [code for row in table(ERRORS, "code", "when", "again?") for code in quoted(row[0])]
    assert sorted(codes) == sorted(code.name for code in CODES.values())


def test_the_kinds_of_domain_errors_are_those_of_the_code() -> None:
    shown = table(ERRORS, "kind", "code", "of the chassis itself")
    assert shown == [_kind(kind, code) for kind, code in CODES.items()]


def test_the_failures_of_databases_are_those_of_the_code() -> None:
    shown = [
        (quoted(reason), quoted(code), quoted(sqlstates), quoted(sqlite), quoted(classes))
        for reason, code, sqlstates, sqlite, classes in table(
            ERRORS, "reason", "code", "PostgreSQL", "SQLite", "SQLAlchemy"
        )
    ]
    assert shown == [
        (
            (failure.error.reason,),
            (_code(failure.error).name,),
            failure.sqlstates,
            failure.sqlite,
            tuple(name.removeprefix("sqlalchemy.") for name in failure.classes),
        )
        for failure in DATABASE_FAILURES
    ]


def test_the_reasons_of_transactions_are_those_of_the_contract_with_their_codes() -> None:
    shown = {quoted(reason)[0]: code for reason, code, _what in table(ERRORS, "reason", "code", "what to do")}
    assert sorted(shown) == sorted(reason_name(Reason, value) for value in Reason.values() if value)
    for error in [*vars(coordinator_errors).values(), *vars(participant_errors).values()]:
        if isinstance(error, type) and issubclass(error, DomainError) and getattr(error, "reason", None) in shown:
            again = ", again" if error.retry_after is not None else ""
            assert shown[error.reason] == f"`{_code(error).name}`{again}", error


def test_the_contract_names_each_problem_with_who_calls_and_no_other() -> None:
    contract = (ROOT / "protos/handfast/chassis/v1/reasons.proto").read_text().replace("\n  //", "")
    _, _, listed = contract.partition("Metadata: `problem`, one of ")
    assert quoted(listed.partition(".")[0]) == get_args(Problem)


def test_an_error_is_raised_as_shown() -> None:
    (raising,) = (block for block in blocks("python", ERRORS) if block.output is None)
    namespace: dict[str, Any] = {}
    exec(raising.code, namespace)
    error = namespace["UserAlreadyExists"]("ada")
    assert (error.reason, error.values) == ("USER_ALREADY_EXISTS", {"user_id": "ada"})
    assert _code(type(error)) is grpc.StatusCode.ALREADY_EXISTS


def test_links_lead_somewhere() -> None:
    assert dangling_links(ERRORS) == []


def _kind(kind: type[DomainError], code: grpc.StatusCode) -> tuple[str, ...]:
    ours = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, kind)]
    if not hasattr(kind, "reason"):  # it has subclasses with one
        ours.remove(kind)
    reasons = (
        f"`{each.reason}`" + (f" (again after {each.retry_after} s)" if each.retry_after is not None else "")
        for each in ours
    )
    return f"`{kind.__name__}`", f"`{code.name}`", ", ".join(reasons)


def _code(error: type[DomainError]) -> grpc.StatusCode:
    (code,) = (code for kind, code in CODES.items() if issubclass(error, kind))
    return code
