"""Atomic commit between services.

    core/          the rules, without I/O: state and message in, verdict and effects out
    participant/   the library of a service that owns data: stores, reads, writes, ParticipantService
    coordinator/   the service that decides: the register of decisions, TransactionService, the finisher
    wire.py        what transactions look like in metadata, shared by both sides

The way of one transaction: each participant *stages* the writes it is sent (a staged write is durable, and is
the yes vote), the coordinator inserts one *decision*, and the participants *finish* after the caller has its
answer. A row without a pending change never needs the coordinator.

Relatives: Percolator (Peng and Dabek, 2010), Paxos Commit's register (Gray and Lamport, 2006), CockroachDB's write
intents, ScalarDB's consensus commit. Here the participants are services behind contracts.
"""
