"""What every server is built on. A team's own service can be, too.

A service makes a `Server` of its servicers, raises domain errors, and hands `serve` a function that builds the server.
That is all; `examples/postage` does it in less than 40 lines, and `docs/chassis.md` is the guide. What a service needs
can be imported from this package, and stays here though the files below may change:

    serve                                       runs a server as a command: flags, environment, signals
    ServerSettings, DatabaseSettings            what a server is told; subclass them for settings of your own
    Server, Service, Pool                       what is served, by which threads
    Check, Background                           what readiness asks; work beside the calls
    DomainError and its kinds, reason_name      what handlers raise
    Violations                                  … for fields, all at once
    current                                     the call at hand: request id, deadline, fields for its log line
    check_active, interruptible, pause, answer_of, uninterrupted    waiting, for as long as somebody waits for the reply
    Database, open_database, run_migrations, schema_check           a service's own data

A call passes, from the outside in:

    observe/            opens its record, and closes it with the code that the caller saw
    error_layer.py      turns exceptions into statuses
    admission.py        turns bytes into messages and back, and refuses what is too large or not for this method
    the handler

    call.py             the call at hand, and what is known of its method
    interrupts.py       stops what a call waits for, when the call is over
    refusal.py          what becomes of calls that are too many, or come when the server stops
    errors.py           what handlers raise
    error_table.py      what each error is to a caller: status codes, and what failures of the database amount to;
                        database_errors.py finds them there, error_mapping.py makes statuses, error_size.py cuts them
    server.py           puts it all together: start, serve, drain
    serving.py          a server as a command
    health.py, readiness.py, reflection.py, metrics.py, logs.py     what operators and their tools see
    redaction.py, tracebacks.py, log_values.py                      what the log must not say, and how the rest is said
    handlers.py, status_codes.py, log_writer.py                     small things that the above share

    database.py, fair_lock.py, migrations.py, idempotency.py    a service's own data
    fields.py, paging.py, fingerprint.py                        requests: what to check, how to list, which is which
    clock.py                                                    the time
    crash_points.py                                             where tests make a server die
"""

from handfast.server.chassis.call import Call, Pool, current
from handfast.server.chassis.database import Database
from handfast.server.chassis.errors import (
    Aborted,
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    ResourceExhausted,
    Unavailable,
    Violation,
    Violations,
    reason_name,
)
from handfast.server.chassis.interrupts import answer_of, check_active, interruptible, pause, uninterrupted
from handfast.server.chassis.migrations import open_database, schema_check
from handfast.server.chassis.migrations import run as run_migrations
from handfast.server.chassis.readiness import Check
from handfast.server.chassis.server import Background, Server, Service, StartError
from handfast.server.chassis.serving import serve
from handfast.server.process.settings import DatabaseSettings, ServerSettings, SettingsError

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Background",
    "Call",
    "Check",
    "Database",
    "DatabaseSettings",
    "DomainError",
    "FailedPrecondition",
    "InvalidArgument",
    "NotFound",
    "OutcomeUnknown",
    "Pool",
    "ResourceExhausted",
    "Server",
    "ServerSettings",
    "Service",
    "SettingsError",
    "StartError",
    "Unavailable",
    "Violation",
    "Violations",
    "answer_of",
    "check_active",
    "current",
    "interruptible",
    "open_database",
    "pause",
    "reason_name",
    "run_migrations",
    "schema_check",
    "serve",
    "uninterrupted",
]
