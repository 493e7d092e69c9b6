"""The parts of the servers that are tried, and the tests that belong to each."""

from __future__ import annotations

from dataclasses import dataclass

ON_SQLITE = ("-k", "not postgresql")


@dataclass(frozen=True)
class Part:
    """Some modules of the servers, as patterns below their folder, and what pytest is told to run on a fault in them.
    Modules that only declare the schema of a database are left out."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()


def _modules(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}.py" for name in names)


def _chassis(*names: str) -> tuple[str, ...]:
    return _modules("tests/chassis", *(f"test_{name}" for name in names))


_SCHEMA = ("tables.py", "migrations.py")
_SIMULATION = ("tests/transactions/test_rules.py", "tests/simulation/test_simulation.py")
_TRANSACTIONS = (*_SIMULATION, "tests/transactions", "tests/accounts", "tests/cli/test_transactions.py", *ON_SQLITE)

PARTS = {
    "core": Part(("transactions/core/*.py",), _SIMULATION),
    "coordinator": Part(("transactions/coordinator/*.py",), _TRANSACTIONS, _SCHEMA),
    "participant": Part(
        ("transactions/participant/*.py",), (*_TRANSACTIONS, "tests/users", "tests/preferences"), _SCHEMA
    ),
    "protocol": Part(("transactions/*.py",), _TRANSACTIONS),
    "data": Part(
        ("chassis/data/*.py",),
        (
            *_chassis("database_errors", "fingerprint"),
            *_modules("tests/databases", "test_database", "test_local_transactions", "test_migrations"),
            *_modules("tests/databases", "test_cancellation", "test_postgresql_elsewhere", "test_readiness"),
            "tests/users/test_request_id.py",
            "tests/transactions/test_retention.py",
        ),
    ),
    "errors": Part(
        ("chassis/errors/*.py",),
        (
            *_chassis("cancellation", "errors_on_the_wire", "calls", "streams", "database_errors", "error_size"),
            *ON_SQLITE,
        ),
    ),
    "logs": Part(("chassis/logs/*.py",), _chassis("logs", "redaction", "database_errors")),
    "pipeline": Part(
        ("chassis/pipeline/*.py", "chassis/operations/*.py"),
        (
            *_chassis(
                "limiter", "end_of_a_call", "refusal", "periodic", "metrics", "streams", "calls", "readiness", "server"
            ),
            *_chassis("held_streams", "accounting"),
            *ON_SQLITE,
        ),
    ),
    "requests": Part(
        ("chassis/requests/*.py",),
        (
            *_chassis("requests"),
            *("tests/users", "tests/preferences", "tests/transactions/test_transaction_service.py", *ON_SQLITE),
        ),
    ),
    "calls": Part(
        ("chassis/*.py",),
        (
            *_chassis(
                "cancellation", "clock", "codec", "calls", "ids", "server", "serving", "connections", "accounting"
            ),
            *_chassis("held_streams"),
            *("tests/databases/test_cancellation.py", *ON_SQLITE),
        ),
        ("crash_points.py",),
    ),
}
