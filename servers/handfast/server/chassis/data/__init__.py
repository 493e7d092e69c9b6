"""A service's own data.

A read: `Database.read` lends a connection that is kept, a `Statement` runs on its session, which runs it on the driver.
A write: `Database.write` hands its work to the backend. On SQLite `GroupCommit` runs it with others and commits them
together (`_commit`); on PostgreSQL `Postgresql.write` runs and commits it by itself.

database.py              reads, local transactions, kept connections: what services use
statements.py            runs the statements of most calls on the driver, at a tenth of the cost
backend.py               what each engine has an object for, and its sessions: the interface
sqlite.py                SQLite: its sessions, and the file, which must stay the one that was opened
group_commit.py          writes of SQLite that wait are committed together
postgresql.py            PostgreSQL: how it is reached, directly or by a pooler; local transactions
postgresql_session.py    its sessions: few round trips; cancelling
postgresql_connection.py its connections, which are given up where no answer comes
metrics.py               how many writes are committed together, and how long that takes
schema.py                whose a database is, and which version of which schema it has
revisions.py             the revisions that the code knows, and on which of them it runs
migrations.py            brings a database to the schema that the code expects
steps.py                 … by steps that take long, while calls go on
distribution.py          which rows belong together where a database spreads over machines
idempotency.py           makes the repeat of a write harmless
answers.py               whose the answers are that repeats get
personal_data.py         takes personal data out of such answers
"""
