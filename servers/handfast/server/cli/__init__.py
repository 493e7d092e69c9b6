"""The `handfast` command.

    main.py         the command, also where only the client is installed
    commands.py     what each command takes, and `handfast serve`: one server in this process
    settings.py     the settings of the commands: those of servers, and where a suite is
    up.py           `handfast up`: checks, starts the whole suite, says where it is
    supervisor.py   keeps child processes running, and ends them together
    config.py       `handfast config`: what the settings of servers are, and where they are from
    health.py       `handfast health`: asks one server whether it serves
    migrate.py      `handfast migrate`: sets databases up and upgrades them
    data_dir.py     the folder of the SQLite files, for one suite at a time
    temporary.py    a suite for `handfast demo`, which itself is in examples/demo
    new/            `handfast new service`: a service of one's own
    dev/            `handfast dev-credentials`: certificates and tokens for development
    transactions.py `handfast transactions`: lists, shows and resolves them
    inquiry.py      asks the coordinator and the participants about transactions
    reports.py      shows their answers in words, tables and JSON
    ports.py        which ports can be listened on
    installed.py    whether all is installed that the servers need

`commands`, `up` and what they import stay free of gRPC and SQLAlchemy, so that help and the supervisor start at once.
"""
