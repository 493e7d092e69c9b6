"""The preferences server: owns what users have chosen, and the definitions of what can be chosen. It does not know
which users exist.

    server.py       puts the server together
    service.py      PreferencesService: requests in, responses out
    validation.py   the rules of a request, all violations at once
    changes.py      what a write makes of preferences
    definitions.py  the definitions in their table
    resources.py    preferences as rows and as messages
    tables.py       the tables
    errors.py       the errors of PreferencesService
    migrations/     the revisions of the tables (Alembic)
"""
