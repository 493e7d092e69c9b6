"""The coordinator: decides transactions, and sees to it that they are finished.

coordinator.py     a change across services from start to decision: what an account call runs
owned_ids.py       mints ids, which say whose they are
keyed_lock.py      lets changes of the same resource go one after the other
staging.py         sends the staged calls side by side, and makes one error of the refusals
holdings.py        asks participants whether they hold what is committed by hand
decision_store.py  the decisions in their table
reply_store.py     the replies of account calls, kept for repeats of a request id
notifier.py        notifies participants of what was decided, in the background and in batches
pruner.py          forgets what is long done
service.py         TransactionService
tables.py          the tables
migrations.py      steps that create them
errors.py          why a call is refused for the sake of a transaction
"""
