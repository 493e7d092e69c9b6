"""The token that calls carry, and when it is asked for again: before it expires, and where a server refuses it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import json
import logging
import math
import re
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import Context
from typing import Any, NamedTuple, TypeAlias

from handfast.client.security.secret_files import UnusableFile

Token: TypeAlias = str | Callable[[], str]
"""A token, or a function that returns one each time it is called."""
AsyncToken: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""For asyncio, where the function can be an async one."""
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
    """None could be had. Its text, which errors of calls quote, has nothing that the function said; its cause is what
    the function raised."""


class _Held(NamedTuple):
    entry: Entry
    renew_s: float = math.inf
    """When the next one is asked for, in seconds of `time.time()`, as when this one expires."""
    expires_s: float = math.inf


class TokenSource:
    """Has the token ready for each call. Raises TypeError or ValueError on what cannot be one. Usable from any thread;
    where its function `may_be_async`, from those with a running event loop.

    A function is called in a thread of its own. While it runs, calls that need its answer share it, and those for which
    the present token is good enough go on with that.
    """

    def __init__(self, token: AsyncToken, may_be_async: bool = False) -> None:
        self._function = None if isinstance(token, str) else token
        if not isinstance(token, str) and not callable(token):
            raise TypeError(f"token: must be a str, or a function that returns one, not {type(token).__name__}")
        if not may_be_async and _is_async(token):
            raise TypeError("token: must be no async function; handfast.client.aio takes those")
        try:
            self._held = _Held(_entry(token)) if isinstance(token, str) else None
        except _NotOne as error:
            raise ValueError(f"token: {error}") from None
        self._may_be_async = may_be_async
        self._lock = threading.Lock()
        self._asking: Future[Entry] | None = None
        self._paused_until_s = -math.inf  # seconds of time.monotonic()

    @property
    def can_change(self) -> bool:
        return self._function is not None

    def get(self) -> Entry | Future[Entry]:
        """The entry for a call that goes out now; or where there is none, the next one, to be waited for, which may be
        NoToken. Asks for it when it is time to."""
        held = self._held
        if held is not None and time.time() < held.renew_s:
            return held.entry
        with self._lock:
            held, now_s = self._held, time.time()
            if held is not None and now_s < held.expires_s:
                if now_s >= held.renew_s and time.monotonic() >= self._paused_until_s:
                    self._ask()
                return held.entry
            return self._ask()

    def refused(self, entry: Entry | None) -> bool:
        """A server did not take the token of this entry. Returns whether a call with another one makes sense."""
        if self._function is None:
            return False
        with self._lock:
            if self._held is None or entry is not self._held.entry:
                return True  # another one is there already, or is being asked for
            now_s = time.monotonic()
            if now_s < self._paused_until_s:
                return False
            self._paused_until_s = now_s + PAUSE_SECONDS
            self._held = None
            return True

    def _ask(self) -> Future[Entry]:
        """Unless it is asked for already. With the lock held."""
        if self._asking is None:
            asking: Future[Entry] = Future()
            asking.set_running_or_notify_cancel()  # so that no call that is cancelled takes it from the others
            loop = asyncio.get_running_loop() if self._may_be_async else None
            threading.Thread(target=self._call, args=(asking, loop), name="handfast-token", daemon=True).start()
            self._asking = asking
        return self._asking

    def _call(self, asking: Future[Entry], loop: asyncio.AbstractEventLoop | None) -> None:
        try:
            # Without the deadline of the call that is served here: the token is for others, too.
            token = Context().run(self._function)  # type: ignore[arg-type]  # a token that is given is always held
            if loop is not None and inspect.isawaitable(token):
                loop.call_soon_threadsafe(self._await, asking, token)
                return
        except BaseException as error:
            self._failed(asking, error)
        else:
            self._answered(asking, token)

    def _await(self, asking: Future[Entry], token: Awaitable[str]) -> None:
        """In the event loop."""

        async def answer() -> None:
            try:
                answer = await token
            except BaseException as error:
                self._failed(asking, error)
            else:
                self._answered(asking, answer)

        self._task = asyncio.get_running_loop().create_task(answer(), context=Context())

    def _answered(self, asking: Future[Entry], token: Any) -> None:
        try:
            entry = _entry(token)
        except _NotOne as error:
            self._failed(asking, error)
            return
        now_s = time.time()
        left = _expiry(token) - now_s
        with self._lock:
            self._asking = None
            # The server's clock counts: what has expired by this one's is used until it is refused.
            if left > 0:
                self._held = _Held(entry, now_s + left - min(MARGIN_SECONDS, left / 5), now_s + left)
            else:
                self._held = _Held(entry)
        asking.set_result(entry)

    def _failed(self, asking: Future[Entry], error: BaseException) -> None:
        is_told = isinstance(error, _NotOne | UnusableFile)
        no_token = NoToken(f"token: {error if is_told else f'its function raised {type(error).__name__}'}")
        no_token.__cause__ = error
        with self._lock:
            self._asking = None
            self._paused_until_s = time.monotonic() + PAUSE_SECONDS
            is_held = self._held is not None and time.time() < self._held.expires_s
        if is_held:
            _LOG.warning("The token is not renewed yet, and used until it expires. %s", no_token)
        asking.set_exception(no_token)


class _NotOne(ValueError):
    """A text without the token in it."""


class _Secret(str):
    """Does not show in what prints metadata, such as a debugger."""

    def __repr__(self) -> str:
        return "<a token>"


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _entry(token: object) -> Entry:
    """Raises TypeError or ValueError, without showing the token."""
    if inspect.iscoroutine(token):
        token.close()  # or Python warns that it was not awaited
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
