"""Atomic commit between services.

    core/             the rules, without I/O: state and message in, verdict and effects out
    participant/      the library of a service that owns data: stores, reads, writes, ParticipantService
    coordinator/      the service that decides: the decisions, TransactionService, the notifier
    wire.py           what transactions look like in metadata, shared by both sides
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
