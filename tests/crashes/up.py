"""`handfast up`, restarting at once whatever died, however often it has died before: python -m tests.crashes.up ..."""

from __future__ import annotations

import sys

from handfast.server.cli import supervisor
from handfast.server.cli.main import main

supervisor.STEADY_AFTER = 0.0
sys.exit(main(["up", *sys.argv[1:]]))
