"""The users server: owns users, and knows nothing of what other services keep about them.

server.py       puts the server together
service.py      UserService: requests in, responses out
validation.py   the rules of a request, all violations at once
languages.py    what is a language tag
emails.py       which emails are the same
changes.py      what a write does to a user, as functions of the user before
resources.py    users as rows and as messages, and what is unique about them
tables.py       the tables
errors.py       why a call is refused
migrations/     how the tables came to be
"""
