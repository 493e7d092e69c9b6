"""What the suite is measured beside: the same work by other means, on the same databases, as durable.

bare.py          `grpc.server` alone: a constant message, an empty one, GetUser
chassis.py       the chassis with a method that does nothing
kit.py           grpc-server-kit with a method that does nothing
fastapi_app.py   FastAPI: read and update a user
facade.py        UpdateUserAndPreferences as two updates without the guarantee
two_phase.py     UpdateUserAndPreferences by PREPARE TRANSACTION, in one process
dbos_app.py      UpdateUserAndPreferences as a DBOS workflow, in one process
collector.py     takes what traced servers export

database.py      the two updates as plain SQL, for those that write to the databases themselves
in_process.py    lets a process without a server be measured

Servers print their address when they are ready.
"""
