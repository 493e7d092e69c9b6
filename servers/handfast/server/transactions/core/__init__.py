"""The rules of atomic commit, as functions of what a local transaction has read: no clock, no database, no network.

    model.py        the words: transaction, branch, operation, decision
    participant.py  staging, finishing and closing a branch; who holds a unique value
    coordinator.py  the decision as a write-once register, and what a repeated commit is told
    pruning.py      how far may be forgotten what is finished
    reading.py      what a reader sees of a row with a pending change

A caller loads the state under its locks, asks here, and carries out the effects in the same local transaction. The
servers do so with SQL; a simulation can do so with dictionaries.
"""
