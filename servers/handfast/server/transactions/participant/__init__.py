"""The library of a service that owns data and takes part in transactions.

    server.py         puts a server with a participant together
    settings.py       the settings of one that is no server of the suite
    resource_type.py  what a service says of one kind of resource: its table, and how rows and messages map
    columns.py        how they map where it does not say
    storable.py       whether columns can hold what a resource is to become
    collection.py     the resources of one kind, as handlers read and write them: get, batch, page, holder, write
    participant.py    all kinds together: `write`, plain or staged
    unit_of_work.py   what one write sees and changes
    read_set.py       what a call reads within its transaction, for its trailer

    finishing.py      applies or drops branches, once their transactions are decided or their time is up
    waiters.py        which transactions wait, so that nobody younger overtakes them
    open_branches.py  how many are open, and may be
    sweeper.py        has it done for what nobody touches, and forgets what is long done
    service.py        ParticipantService
    lock_service.py   LockService

    store.py          all that a participant has in its database
    tables.py         the participant's own tables
    resource_rows.py  the SQL of resources: rows, each with its pending change
    branches.py       … of what each transaction has here
    operations.py     … of the changes and read locks that it has staged
    unique_keys.py    … of who holds each unique value
    migrations.py     steps that create the tables

    resolver.py       asks the coordinator what became of a transaction
    id_owners.py      whose a transaction is, by its id
    circuit.py        keeps a coordinator that does not answer from taking all threads
    errors.py         why a call is refused for the sake of a transaction

A service describes its resources once, reads and writes them by `Collection`s, or writes several at once by
`Participant.write`, and need not know whether a call is staged.
"""

from handfast.server.transactions.participant.collection import Collection
from handfast.server.transactions.participant.participant import Participant
from handfast.server.transactions.participant.resource_type import ResourceType, Version
from handfast.server.transactions.participant.unit_of_work import UnitOfWork

__all__ = ["Collection", "Participant", "ResourceType", "UnitOfWork", "Version"]
