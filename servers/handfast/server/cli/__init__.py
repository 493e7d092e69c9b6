"""The `handfast` command.

    main.py         the parser; calls the command
    settings.py     what the commands take, beside the settings of a server
    serve.py        `handfast serve NAME`: one server in this process
    up.py           `handfast up`: checks, starts the whole suite, says where it is
    supervisor.py   keeps child processes running, and ends them together
    demo.py         `handfast demo`: the tour, on the suite that runs, or on one started for it
    tour.py         the tour itself: changes that commit everywhere, and one that is refused
    transactions.py `handfast transactions`: lists, shows and resolves them
    inquiry.py      what the coordinator and the participants say of transactions
    reports.py      the same in words, tables and JSON
    ports.py        which ports can be listened on
    errors.py       the failure that is told in one line

`main`, `up` and what they import stay free of gRPC and SQLAlchemy, so that help and the supervisor start at once.
"""
