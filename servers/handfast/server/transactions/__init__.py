"""Atomic commit between services: for services of one's own that take part, and for the suite's.

What a service needs can be imported from this package, and stays here though what is behind it may change.
docs/participants.md is the guide, and `examples/credits` a whole service.

    participant_server, ParticipantSettings     the server, which takes part
    ParticipantTables, resource_table           the tables: the library's own, and those of resources
    ResourceType, Version                       what a kind of resource is: its table and its message
    Participant, Collection                     reads, and writes of one resource
    UnitOfWork                                  a write of several
    migrations                                  steps that make the tables

Behind it:

    core/             the rules, without I/O: state and message in, verdict and effects out
    participant/      the library of a service that owns data: stores, reads, writes, ParticipantService
    coordinator/      the service that decides: the decisions, TransactionService, the notifier
    wire.py           what transactions look like in metadata, shared by both sides
    owner_tags.py     whose a transaction is, by its id
    ownership.py      what others are told who use it
    horizon.py        up to where a database has pruned, shared by both sides
    clocks.py         what is refused where clocks are far apart
    crash_points.py   where tests make a server die
    lost.py           when what is found lost is tried again
    metrics.py        what a server measures of them

The way of one transaction, and where to read it:

1. A caller sends each participant its writes, side by side          coordinator/staging.py
2. Each *stages* its write: validated, durable, invisible; a yes     participant/participant.py
3. The coordinator inserts one *decision*; the caller is answered    coordinator/coordinator.py
4. In the background it notifies the participants                       coordinator/notifier.py
5. They *finish*: apply or drop what is staged                       participant/finishing.py

Whoever meets a staged change before that asks what was decided (participant/collection.py, participant.py). A row
without a pending change never needs the coordinator.

docs/atomic-commit.md has the rules, why they hold, what each fault does, and the relatives of this protocol.
"""

from handfast.server.transactions.participant import migrations
from handfast.server.transactions.participant.collection import Collection
from handfast.server.transactions.participant.participant import Participant
from handfast.server.transactions.participant.resource_type import ResourceType, Version
from handfast.server.transactions.participant.server import participant_server
from handfast.server.transactions.participant.settings import ParticipantSettings
from handfast.server.transactions.participant.tables import ParticipantTables, resource_table
from handfast.server.transactions.participant.unit_of_work import UnitOfWork

__all__ = [
    "Collection",
    "Participant",
    "ParticipantSettings",
    "ParticipantTables",
    "ResourceType",
    "UnitOfWork",
    "Version",
    "migrations",
    "participant_server",
    "resource_table",
]
