"""The servers of the suite, and what they are built on.

users/  preferences/  accounts/   one folder a server, with the same file names in each
transactions/                     atomic commit between them: the rules, the participant, the coordinator
suite.py                          the settings of these servers, beyond those of any server
chassis/                          what every server is built on
process/                          a server as a process: settings, signals, readiness
cli/                              the `handfast` command
testing.py                        a suite around a service of one's own, for its tests
"""

import os

# Read by grpcio as it is imported. Without it, each client that cannot shake hands leaves a line on stderr, in the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
