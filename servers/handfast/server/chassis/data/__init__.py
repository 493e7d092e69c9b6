"""A service's own data.

database.py      SQLite by file or PostgreSQL by URL: reads, local transactions, durability
statements.py    runs the statements of most calls on the driver, at a tenth of the cost
sqlite.py        a file, which must stay the one that was opened
postgresql.py    how it is reached, directly or by a pooler
fair_lock.py     whose turn it is to write, where one writes at a time
schema.py        whose a database is, and which version of which schema it has
migrations.py    brings a database to the schema that the code expects
idempotency.py   makes the repeat of a write harmless
"""
