"""The users server: owns users, and knows nothing of what other services keep about them.

server.py       puts the server together
service.py      UserService: requests in, responses out
validation.py   the rules of a request, all violations at once
emails.py       whether two emails are the same
changes.py      what a write makes of a user
resources.py    users as rows and as messages, and their unique values
tables.py       the tables
errors.py       the errors of UserService
migrations/     the revisions of the tables (Alembic)
"""
