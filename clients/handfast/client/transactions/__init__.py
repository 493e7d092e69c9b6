"""Transactions over several services: `Suite.transaction`, `Suite.transact`, and the same for asyncio.

transaction.py   `Transaction`: begins, commits, rolls back
calls.py         what `tx.users.GetUser` is, and what the transaction does with its calls
call.py          what it gives back
reruns.py        when `transact` runs one again
contention.py    what it then locks before it reads it

and what they share with aio/transaction.py
journal.py       the metadata of calls, what trailers say, why nothing is left but to roll back
ending.py        the calls that commit or roll back, and what their answers mean
queue.py         the order in which calls go out
state.py         what a transaction has done so far, and what is left to do to end it
methods.py       what a method can do in a transaction, by its contract
errors.py        the errors that the client finds itself, and TransactionMisuse
services.py      the services of a suite by name
minted.py        ids of transactions, some of them ahead
"""
