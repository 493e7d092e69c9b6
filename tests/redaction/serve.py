"""`handfast`, with handlers that are careless where the metadata `test-careless` says how: python -m
tests.redaction.serve up ..."""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import structlog
from google.protobuf import json_format, text_format
from google.protobuf.message import Message

from handfast.server.chassis.call import current
from handfast.server.chassis.errors import InvalidArgument
from handfast.server.cli import main, up

CARELESS = "test-careless"


class Quoting(InvalidArgument):
    reason = "QUOTING"


def log(request: Message) -> None:
    """Logs the request in all ways, and goes on."""
    to_json = json_format.MessageToJson(request)
    logger, library = structlog.get_logger(), logging.getLogger("library")
    logger.debug("asked", request=request, nested={"in": [request, (request,)]}, text=f"{request}", json=to_json)
    logger.info(f"asked for {request!r}", error=ValueError(request))
    logger.warning(text_format.MessageToString(request, as_utf8=False), **{to_json: 1})
    library.warning("asked for %s", request)
    library.error(f"asked for {request}")
    try:
        fail(request)
    except ValueError:
        logger.exception("failed")
        library.exception(f"failed for {request}")


def fail(request: Message) -> None:
    """An exception that nobody foresees, with all of the request in its text, its notes and its causes."""
    try:
        raise KeyError(json_format.MessageToDict(request))
    except KeyError as cause:
        error = ValueError(f"cannot handle {request}", request)
        error.add_note(text_format.MessageToString(request, as_one_line=True))
        raise error from ExceptionGroup(
            json_format.MessageToJson(request, indent=None), [cause, OSError(repr(request))]
        )


def quote(request: Message) -> None:
    """An error of a contract whose message quotes the request."""
    raise Quoting(f"It cannot be that {request}.")


def end_thread(request: Message) -> None:
    thread = threading.Thread(target=fail, args=(request,), name="careless")
    thread.start()
    thread.join()


WAYS: dict[str, Callable[[Any], None]] = {"log": log, "fail": fail, "quote": quote, "end_thread": end_thread}


def make_careless(servicer: type) -> None:
    for name, method in vars(servicer).copy().items():
        if name[0].isupper():
            setattr(servicer, name, _careless(method))


def _careless(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def careless(self: Any, request: Any, context: Any) -> Any:
        if way := current().metadata.get(CARELESS):
            WAYS[str(way)](request)
        return method(self, request, context)

    return careless


if __name__ == "__main__":
    from handfast.server.accounts.service import AccountServicer
    from handfast.server.preferences.service import PreferencesServicer
    from handfast.server.users.service import UserServicer

    up.HANDFAST = (sys.executable, "-m", __spec__.name)  # type: ignore[attr-defined,assignment]  # of servers, too
    for each in (AccountServicer, PreferencesServicer, UserServicer):
        make_careless(each)
    sys.exit(main.main(sys.argv[1:]))
