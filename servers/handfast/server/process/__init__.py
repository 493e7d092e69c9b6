"""A server as a process: what it is told, and what it tells whoever started it.

    settings.py     what any server is told when it starts
    flags.py        flags and environment, read once, into validated settings
    command.py      the command line: settings as options of click, and how a command ends
    stopping.py     what asks a process to stop: a signal, or the end of its supervisor
    processors.py   which processors it may use, and keeping its Python on one
    notify.py       that it is ready, or stops

Nothing here imports gRPC or SQLAlchemy, so that help and a supervisor start at once.
"""
