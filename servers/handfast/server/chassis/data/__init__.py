"""A service's own data.

database.py           SQLite by file or PostgreSQL by URL: reads, local transactions, durability, kept connections
statements.py         runs the statements of most calls on the driver, at a tenth of the cost
sqlite.py             a file, which must stay the one that was opened
group_commit.py       writes of SQLite that wait are committed together
postgresql.py         how it is reached, directly or by a pooler; few round trips; cancelling
metrics.py            how many writes are committed together, and how long that takes
schema.py             whose a database is, and which version of which schema it has
migrations.py         brings a database to the schema that the code expects
idempotency.py        makes the repeat of a write harmless
"""
