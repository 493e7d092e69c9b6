"""The metadata keys of calls within a transaction, for clients and servers. docs/atomic-commit.md explains them."""

TRANSACTION_ID = "handfast-transaction-id"
OPERATION = "handfast-operation"
DEADLINE = "handfast-transaction-deadline"
FIRST_ATTEMPT = "handfast-first-attempt"
FOLLOWS = "handfast-follows"
STAGE_KEYS = frozenset({TRANSACTION_ID, OPERATION, DEADLINE, FIRST_ATTEMPT, FOLLOWS})
"""What comes with a call within a transaction."""
STAGING_KEYS = frozenset({OPERATION, FOLLOWS})
"""What only a call has that is to be staged; one that reads within a transaction has the others."""
STAGED = "handfast-staged"
"""A trailer: the participant that has staged the call."""
READS = "handfast-reads-bin"
"""A trailer: what the call has read in its transaction, a serialized `handfast.transactions.v1.ReadSet`."""
