"""The accounts server: a user and the preferences as one, and the coordinator that makes their changes atomic.

It owns no users and no preferences, only decisions about transactions; the rest it reaches through the services'
contracts.

    server.py       puts the server together
    service.py      AccountService: requests in, responses out
    changes.py      the staged calls that make up each change
    reading.py      reads both sides of an account without tearing it
    tables.py       the tables
    errors.py       why a call is refused
    migrations/     how the tables came to be
"""
