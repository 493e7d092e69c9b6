"""What every server is built on. A team's own service can be, too.

A service makes a `Server` of its servicers, raises domain errors, and hands `serve` a function that builds the server.
That is all; `examples/postage` does it in less than 40 lines, and `docs/chassis.md` is the guide. What a service needs
can be imported from this package, and stays here though the files below may change:

    serve                                       runs a server as a command: flags, environment, signals
    ServerSettings, DatabaseSettings            the settings of a server; subclass them for your own
    Server, Service, Pool                       what is served, by which threads
    Check, Background, Periodic                 what readiness asks; work beside the calls
    DomainError and its kinds, reason_name      what handlers raise
    Violations, fields                          … for fields, all at once; checks that several contracts need
    require_page, page_token                    the pages of a list
    new_id, new_etag, now                       ids that sort by time, etags, and the time
    current                                     the call at hand: request id, deadline, fields for its log line
    Identity, refuse                            who calls (`current().identity`); refuses a call by a rule of one's own
    check_active, cancel_scope, sleep, wait_for, shield            waiting, for as long as somebody waits for the reply
    Database, Schema, open_database, run_migrations, database_check, key_text    a service's own data
    create_index_concurrently, drop_index_concurrently, change_in_batches    … migrations that take long
    Statement, export_writes                    what most calls run on it, for less; how writes are committed

A call passes, from the outside in:

    pipeline/           the one layer of the chassis: opens the call and records it with the code that its caller saw,
                        turns bytes into messages and exceptions into statuses; refuses what is too much
    interceptors        of a team's own, if there are any
    the handler

What they find there, and what is around them:

    call.py             the call at hand, and what is known of its method
    cancellation.py     stops what a call waits for, when the call is over
    errors/             what may be raised, and what becomes of it
    metadata.py         what metadata a handler may send
    connections.py      how long a connection lasts, and signs of life
    peers.py            the channels to other services
    server.py           puts it all together: start, serve, drain
    start_errors.py     why it does not
    serving.py          a server as a command
    security/           who calls, what they may do, and the certificates of the ports
    logs/               what is logged, and what must not be
    tracing/            spans of OpenTelemetry
    operations/         health, readiness, reflection, periodic work
    data/               a service's own data: database, migrations, repeats of a request
    requests/           what to check in requests, how to list
    clock.py            the time
    ids.py              ids that sort by it
    versions.py         of what a server runs on
    crash_points.py     where tests make a server die
"""

from handfast.server.chassis.call import Call, Pool, current
from handfast.server.chassis.cancellation import cancel_scope, check_active, shield, sleep, wait_for
from handfast.server.chassis.clock import now
from handfast.server.chassis.data.database import Database, key_text
from handfast.server.chassis.data.metrics import export_writes
from handfast.server.chassis.data.migrations import database_check, open_database
from handfast.server.chassis.data.migrations import run as run_migrations
from handfast.server.chassis.data.schema import Schema
from handfast.server.chassis.data.statements import Statement
from handfast.server.chassis.data.steps import change_in_batches, create_index_concurrently, drop_index_concurrently
from handfast.server.chassis.errors import (
    Aborted,
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Violation,
    Violations,
    reason_name,
)
from handfast.server.chassis.ids import new_etag, new_id
from handfast.server.chassis.operations.periodic import Periodic
from handfast.server.chassis.operations.readiness import Check
from handfast.server.chassis.requests import fields
from handfast.server.chassis.requests.paging import page_token, require_page
from handfast.server.chassis.security.guard import refuse
from handfast.server.chassis.security.identity import Identity
from handfast.server.chassis.server import Background, Server, Service
from handfast.server.chassis.serving import serve
from handfast.server.chassis.start_errors import StartError
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
    "Identity",
    "InvalidArgument",
    "NotFound",
    "OutcomeUnknown",
    "Periodic",
    "PermissionDenied",
    "Pool",
    "ResourceExhausted",
    "Schema",
    "Server",
    "ServerSettings",
    "Service",
    "SettingsError",
    "StartError",
    "Statement",
    "Unauthenticated",
    "Unavailable",
    "Violation",
    "Violations",
    "cancel_scope",
    "change_in_batches",
    "check_active",
    "create_index_concurrently",
    "current",
    "database_check",
    "drop_index_concurrently",
    "export_writes",
    "fields",
    "key_text",
    "new_etag",
    "new_id",
    "now",
    "open_database",
    "page_token",
    "reason_name",
    "refuse",
    "require_page",
    "run_migrations",
    "serve",
    "shield",
    "sleep",
    "wait_for",
]
