"""The token that calls carry, and when it is asked for again: before it expires, and where a server refuses it."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from typing import TypeAlias

import grpc

from handfast.client.security.secret_files import UnusableFile

Token: TypeAlias = str | Callable[[], str]
"""A token, or a function that returns one each time it is called."""
Entry: TypeAlias = tuple[str, str]
"""Of a call's metadata."""

KEY = "authorization"
MARGIN_SECONDS = 30.0
"""How long before it expires a token is asked for anew, at the most. A short-lived one has a fifth of its time."""
PAUSE_SECONDS = 1.0
"""How long no other token is asked for, after one was that a server had refused, or none could be had."""

_LOG = logging.getLogger("handfast.client")
_FORM = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""https://www.rfc-editor.org/rfc/rfc6750#section-2.1"""


class NoToken(Exception):
    """None could be had. Its text, which errors of calls quote, has nothing that the function said."""


class TokenSource:
    """Has the token ready for each call. Raises TypeError or ValueError on what cannot be one. Usable from any thread.

    A function is called in a thread of gRPC, which waits for it. While it runs, calls that need its answer share it,
    and those for which the present token is good enough go on with that.
    """

    def __init__(self, token: Token) -> None:
        self._function = None if isinstance(token, str) else token
        if not isinstance(token, str) and not callable(token):
            raise TypeError(f"token: must be a str, or a function that returns one, not {type(token).__name__}")
        try:
            self._entry = _entry(token) if isinstance(token, str) else None
        except _NotOne as error:
            raise ValueError(f"token: {error}") from None
        self._renew_s = self._expires_s = math.inf  # seconds of time.time()
        self._lock = threading.Lock()
        self._asking: Future[Entry] | None = None
        self._paused_until_s = -math.inf  # seconds of time.monotonic()

    @property
    def can_change(self) -> bool:
        return self._function is not None

    def ready(self) -> Entry | None:
        """The entry for a call that goes out now; None where the token is to be asked for, as `Asking` does."""
        return self._entry if time.time() < self._renew_s else None

    def usable(self) -> Entry:
        """The present token until it expires, then the next one, which may have to be waited for. Raises NoToken."""
        entry = self._entry
        return entry if entry is not None and time.time() < self._expires_s else self._ask()

    def renew(self) -> None:
        """Asks for the next one, where it is time to."""
        if self.ready() is None and time.monotonic() >= self._paused_until_s:
            try:
                self._ask()
            except NoToken as error:
                _LOG.warning("The token is not renewed yet, and used until it expires. %s", error)

    def refused(self, entry: Entry | None) -> bool:
        """A server did not take the token of this entry. Returns whether a call with another one makes sense."""
        if self._function is None:
            return False
        with self._lock:
            if entry is not self._entry:
                return True  # another one is there already, or is being asked for
            now_s = time.monotonic()
            if now_s < self._paused_until_s:
                return False
            self._paused_until_s = now_s + PAUSE_SECONDS
            self._entry = None
            return True

    def _ask(self) -> Entry:
        with self._lock:
            asking, others_ask = self._asking, self._asking is not None
            if asking is None:
                asking = self._asking = Future()
        if not others_ask:
            self._answer(asking)
        return asking.result()

    def _answer(self, asking: Future[Entry]) -> None:
        try:
            # Without the deadline of the call that is served here: the token is for others, too.
            token = Context().run(self._function)  # type: ignore[arg-type]  # a token that is given is always ready
            entry = _entry(token)
        except BaseException as error:
            is_told = isinstance(error, _NotOne | UnusableFile)
            reason = str(error) if is_told else f"its function raised {type(error).__name__}"
            with self._lock:
                self._asking = None
                self._paused_until_s = time.monotonic() + PAUSE_SECONDS
            asking.set_exception(NoToken(f"token: {reason}"))
            return
        now_s = time.time()
        left = _expiry(token) - now_s
        with self._lock:
            self._asking = None
            self._entry = entry
            # The server's clock counts: what has expired by this one's is used until it is refused.
            self._expires_s = now_s + left if left > 0 else math.inf
            self._renew_s = self._expires_s - min(MARGIN_SECONDS, left / 5) if left > 0 else math.inf
        asking.set_result(entry)


class Asking(grpc.AuthMetadataPlugin):
    """The credentials of one call whose token has to be asked for."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self.entry: Entry | None = None
        """What the call has carried."""

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        try:
            self.entry = self._source.usable()
        except NoToken as error:
            callback((), error)
            return
        callback((self.entry,), None)
        self._source.renew()


class _NotOne(ValueError):
    """A text without the token in it."""


class _Secret(str):
    """Does not show in what prints metadata, such as a debugger."""

    def __repr__(self) -> str:
        return "<a token>"


def _entry(token: object) -> Entry:
    """Raises TypeError or ValueError, without showing the token."""
    if not isinstance(token, str):
        raise _NotOne(f"its function must return a str, not {type(token).__name__}")
    if not _FORM.fullmatch(token):
        raise _NotOne("must be of letters, digits and -._~+/ alone, without 'Bearer' before it")
    return KEY, _Secret(f"Bearer {token}")


def _expiry(token: str) -> float:
    """When a JWT (RFC 7519) says that it expires, in seconds of `time.time()`. Nothing of it is checked: that is for
    servers. What says nothing, or is no JWT, is used until it is refused.
    """
    try:
        part = token.split(".")[1]
        expiry = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["exp"]
        return float(expiry)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError, binascii.Error):
        return math.inf
