"""The `handfast` command, also where nothing that it needs is installed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from handfast.server.cli.installed import why_missing


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. What it expects to go wrong is one line on stderr and status 2."""
    # The first process of a container would pass over a signal that nothing handles. `run` does so once it is imported.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        # Imported only now: who has installed the client alone has the command, but nothing that it needs.
        from handfast.server.cli.commands import handfast
        from handfast.server.process.command import run

        return run(handfast, argv, "handfast")
    except KeyboardInterrupt:  # while that was imported; `run` takes it from then on
        return 130
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("handfast"):
            raise
        if list(sys.argv[1:] if argv is None else argv) == ["--version"]:
            from importlib.metadata import version  # takes a third of the time of help, which does without

            print("handfast", version("handfast"))
            return 0
        print(f"handfast: {why_missing(error.name)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
