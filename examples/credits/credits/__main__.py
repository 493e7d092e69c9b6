"""Runs the server. It is imported by its name, so that what is declared wrong in it is told in one line."""

from __future__ import annotations

import sys

from handfast.server.chassis import serve
from handfast.server.transactions import ParticipantSettings

sys.exit(serve("credits.service:build", ParticipantSettings, name="credits", listen="127.0.0.1:50061"))
