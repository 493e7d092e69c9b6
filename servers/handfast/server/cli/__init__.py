"""The `handfast` command.

    main.py         the command, also where only the client is installed
    commands.py     what each command takes
    settings.py     what the commands take, beside the settings of a server
    serve.py        `handfast serve NAME`: one server in this process
    up.py           `handfast up`: checks, starts the whole suite, says where it is
    supervisor.py   keeps child processes running, and ends them together
    data_dir.py     the folder of the SQLite files, for one suite at a time
    temporary.py    a suite for `handfast demo`, which itself is in examples/demo
    transactions.py `handfast transactions`: lists, shows and resolves them
    inquiry.py      what the coordinator and the participants say of transactions
    reports.py      the same in words, tables and JSON
    addresses.py    where a suite is, as `demo` and `transactions` are told it
    ports.py        which ports can be listened on
    installed.py    whether all is installed that the servers need
    errors.py       the failure that is told in one line

`commands`, `up` and what they import stay free of gRPC and SQLAlchemy, so that help and the supervisor start at once.
"""
