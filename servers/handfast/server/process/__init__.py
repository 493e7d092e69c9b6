"""A server as a process: its settings, its signals, and what it reports to the process that started it.

    settings.py     the settings that every server has
    addresses.py    addresses and URLs in settings
    flags.py        settings read from all of their places, and a server as a command that takes them
    option.py       one setting as an option of a command
    sources.py      where settings may be given: flags, variables
    config_file.py  … and a TOML file
    listing.py      settings printed with where they are from
    command.py      how a command shows its help and its failures, and its exit status
    certificates.py PEM files of certificates and keys, checked together
    secrets.py      files that nobody else may read
    supervision.py  tells a supervisor or systemd that the process is ready, and hears when it is to stop
    open_files.py   how many files a process may have open
    processors.py   which processors a process may use, and how its Python is kept on one of them

Nothing here imports gRPC or SQLAlchemy, so that help and a supervisor start at once.
"""
