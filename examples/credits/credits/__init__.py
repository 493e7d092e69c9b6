"""Keeps credits: a service of its own, with a database of its own, that takes part in Handfast's transactions.

__main__.py    runs the server: `python -m credits`
service.py     CreditsService, and the server that serves it
tables.py      its tables, and what is kept in them
migrations/    how the tables are made (Alembic)
v1/            the stubs that the contract gives
"""
