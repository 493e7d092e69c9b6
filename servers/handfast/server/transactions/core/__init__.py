"""The rules of atomic commit, as functions of what a local transaction has read: no clock, no database, no network.

    model.py        the words: transaction, branch, operation, decision
    staging.py      rules 1, 14   whether a staged call may be stored, and by whom
    conflicts.py    rules 2, 6, 7, 9, 13   what another transaction's change or lock is to a write and to a read
    coordinator.py  rule 3      the decision as a write-once register, and how a repeated commit is answered
    finishing.py    rules 4, 5  what becomes of a branch by the decision, and how many are finished at once
    unique_keys.py  rule 8      who holds a value that no two resources may share
    pruning.py      rule 10     how far may be forgotten what is finished
    reading.py      rule 13     what a transaction has read, and whether it still holds

The rules are those of docs/atomic-commit.md. Each function here names the rule that it decides, and so does each test
of it (tests/transactions/test_rules.py). Two rules decide nothing that could be asked here:

    rule 11         chassis/data/database.py      which local transactions run again
    rule 12         chassis/data/database.py      that what is committed is durable, checked at start

A caller loads the state under its locks, asks here, and carries out the effects in the same local transaction. The
servers do so with SQL; a simulation can do so with dictionaries.
"""
